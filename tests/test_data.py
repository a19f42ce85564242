import gzip
import io
import math
import struct
import threading
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from conftest import write_digits_folder, write_idx
from torch.utils.data import Subset

from hyperconv import MNISTClassifier
from hyperconv.data import batch_loader, load_digits
from hyperconv.data.augment import turn_and_zoom
from hyperconv.data.digits import DigitDataset
from hyperconv.data.folds import fold_of
from hyperconv.data.idx import read_idx
from hyperconv.data.images import as_float
from hyperconv.data.noise import NOISES, add_noise
from hyperconv.data.npz import read_npz
from hyperconv.data.text import load_text
from hyperconv.data.turned import turned_digits
from hyperconv.errors import InputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 47040016\n"


def test_folder_is_read_gzipped_or_not_bare_or_in_raw(tmp_path):
    bare = load_digits(str(write_digits_folder(tmp_path / "clothes")))
    zipped = load_digits(str(write_digits_folder(tmp_path / "zipped", compress=True)))
    write_digits_folder(tmp_path / "fashion" / "FashionMNIST" / "raw")
    nested = load_digits(str(tmp_path / "fashion"))
    assert (len(bare.train), len(bare.validation), len(bare.test)) == (220, 20, 60)
    assert (bare.name, nested.name) == ("clothes", "fashionmnist")
    for other in (zipped, nested):
        assert torch.equal(bare.train.images, other.train.images)
        assert torch.equal(bare.test.labels, other.test.labels)
    assert bare.train.images.dtype == torch.uint8


def test_split_is_the_one_of_random_split_after_seed_one(tmp_path):
    digits = load_digits(str(write_digits_folder(tmp_path / "digits", train=240)))
    torch.manual_seed(1)
    train, validation = torch.utils.data.random_split(range(240), [220, 20])
    labels = read_idx(tmp_path / "digits" / "train-labels-idx1-ubyte", 1)
    assert digits.train.labels.tolist() == labels[list(train)].tolist()
    assert digits.validation.labels.tolist() == labels[list(validation)].tolist()


def test_without_files_or_network_the_five_thousand_digits_are_used_and_named(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    digits = load_digits("auto")
    assert digits.name == "mnist5k"
    assert "mnist5k" in digits.note
    assert "no network in this test" in digits.note
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (4000, 500, 500)
    assert all(digits.test.labels.bincount() == 50)
    assert not list(tmp_path.iterdir())


def test_a_network_that_never_answers_is_given_up_on(tmp_path, monkeypatch, digits_read_once):
    from hyperconv.data import digits as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "NETWORK_PATIENCE_S", 0.5)
    answered = threading.Event()

    def hang(*args, **kwargs):
        answered.wait(30)
        raise OSError

    monkeypatch.setattr(module.urllib.request, "urlopen", hang)
    started = time.monotonic()
    assert load_digits("auto").name == "mnist5k"
    assert time.monotonic() - started < 10
    answered.set()


def test_a_download_is_taken_whole_or_not_at_all(tmp_path, monkeypatch, digits_read_once):
    import torchvision

    from hyperconv.data import digits as module

    class Interrupted:
        mirrors = ("http://localhost/",)

        def __init__(self, root, download):
            raise RuntimeError("connection lost")

    class Complete(Interrupted):
        def __init__(self, root, download):
            write_digits_folder(tmp_path.__class__(root) / "MNIST" / "raw")

    class Answer:
        def close(self):
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda *args, **kwargs: Answer())
    monkeypatch.setattr(torchvision.datasets, "MNIST", Interrupted)
    assert load_digits("auto").name == "mnist5k"
    assert not list((tmp_path / "data").iterdir())
    (tmp_path / "data" / "MNIST").mkdir()
    monkeypatch.setattr(torchvision.datasets, "MNIST", Complete)
    assert len(load_digits("auto").train) == 220
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]


def test_the_full_mnist_is_known_by_its_content(mnist_folder):
    digits = load_digits(str(mnist_folder))
    assert digits.name == "mnist"
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (55_000, 5_000, 10_000)


def header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "lacks train-images-idx3-ubyte"),
        ("train-images-idx3-ubyte", b"", "truncated: 0 bytes"),
        ("train-images-idx3-ubyte", header(240, 28, 28) + bytes(1000), "promises 188160 bytes"),
        ("train-images-idx3-ubyte", header(240) + bytes(240), "not 00000803"),
        ("train-labels-idx1-ubyte", b"PK\x03\x04" + bytes(100), "not 00000801"),
        ("train-labels-idx1-ubyte", header(100) + bytes(100), "240 images but .* 100 labels"),
        ("t10k-labels-idx1-ubyte", header(60) + bytes([26] * 60), "labels up to 26; expected 0 to 9"),
        ("t10k-images-idx3-ubyte", header(60, 32, 32) + bytes(60 * 1024), "32x32 images; .* takes 28x28"),
        ("t10k-images-idx3-ubyte", header(60, 28, 28) + bytes(60 * 784 + 1), "it holds more"),
        (
            "t10k-images-idx3-ubyte",
            header(10**6, 1000, 1000),
            "promises 1,000,000,000,000 bytes .* at most 1,073,741,824",
        ),
        ("t10k-images-idx3-ubyte", header(*[2**32 - 1] * 3), "at most 1,073,741,824 are read"),
        ("t10k-images-idx3-ubyte", LFS_POINTER, "is a git-lfs pointer, not the file itself"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, file, content, message):
    folder = write_digits_folder(tmp_path / "digits")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_digits(str(folder))
    assert file in str(raised.value)


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        load_digits(str(tmp_path / "nowhere"))


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damaged", (lambda content: content[:-100], lambda content: flipped(content, 5000), lambda content: content[:20])
)
def test_damaged_gzip(tmp_path, damaged):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, torch.randint(256, (40, 28, 28), generator=torch.Generator().manual_seed(0)), compress=True)
    assert read_idx(path, 3).shape == (40, 28, 28)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(InputError, match="cannot be read") as raised:
        read_idx(path, 3)
    assert str(path) in str(raised.value)


def peak_mb(read, *args, match):
    """Memory that is taken before these arguments are refused."""
    tracemalloc.start()
    with pytest.raises(InputError, match=match):
        read(*args)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def test_a_gzip_that_unpacks_to_more_than_it_promises_takes_no_memory(tmp_path):
    zeros = gzip.compress(bytes(2**26))
    for shape, match in (((240, 28, 28), "it holds more"), ((4_000_000, 28, 28), "at most 1,073,741,824 are read")):
        (tmp_path / "images.gz").write_bytes(gzip.compress(header(*shape)) + 48 * zeros)
        assert peak_mb(read_idx, tmp_path / "images.gz", 3, match=match) < 8


@pytest.mark.parametrize("name", ("{}", "{}.gz"))
def test_names_with_a_dot_are_found(tmp_path, name):
    folder = write_digits_folder(tmp_path / "digits", compress=name.endswith(".gz"))
    plain = load_digits(str(folder))
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    assert torch.equal(load_digits(str(folder)).train.images, plain.train.images)


ARRAYS = {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "times": np.array(["1200", "1205"])}
EXPECTED = {"images": (np.uint8, 3), "times": (np.str_, 1)}


def npy(array=None, head=None, **saving):
    """The bytes of an npy file, or of one that starts with another header."""
    content = io.BytesIO()
    if head is None:
        np.save(content, array, **saving)
        return content.getvalue()
    np.lib.format.write_array_header_1_0(content, head)
    return content.getvalue()


def write_npz(path, method=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content if isinstance(content, bytes) else npy(content))
    return path


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
def test_arrays_are_read_as_they_were_written(tmp_path, save):
    others = {
        "columns": np.asfortranarray(np.random.rand(3, 4)),
        "swapped": np.arange(5, dtype=">i4"),
        "one": np.int64(7),
    }
    save(tmp_path / "data.npz", **ARRAYS, **others)
    kinds = {**EXPECTED, "columns": (np.floating, 2), "swapped": (np.integer, 1), "one": (np.integer, 0)}
    read = read_npz(tmp_path / "data.npz", kinds)
    assert list(read) == list(kinds)
    for name, array in {**ARRAYS, **others}.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.writeable
    assert torch.from_numpy(read["swapped"]).tolist() == [0, 1, 2, 3, 4]
    assert list(read_npz(tmp_path / "data.npz", {"times": (np.str_, 1)})) == ["times"]


def huge(*shape, descr="|u1"):
    return npy(head={"descr": descr, "fortran_order": False, "shape": shape})


@pytest.mark.parametrize(
    ("images", "message"),
    (
        (huge(10**12), "uint8 of shape .1000000000000,.; expected uint8 in 3 axes"),
        (huge(10**4, 10**4, 10**4), "promises 1,000,000,000,000 bytes .* at most 1,073,741,824"),
        (huge(2**32, 2**32, 2**32), "at most 1,073,741,824"),
        (huge(2, -3, -4) + bytes(24), "expected uint8 in 3 axes"),
        (huge(2, 3, 4) + bytes(23), "promises 24 bytes .* but 23 are there"),
        (huge(2, 3, 4) + bytes(25), "promises 24 bytes .* but more are there"),
        (huge(2, 3, 4, descr="|O") + bytes(192), "is object of shape"),
        (huge(2, 3, 4, descr="<f4") + bytes(96), "is float32 of shape .2, 3, 4.; expected uint8 in 3 axes"),
        (huge(2, 3, 4, descr="odd"), "no header that can be read"),
        (huge(2, 3, 4)[:40], "no header that can be read"),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff{", "no header that can be read .another version"),
        (b"\x93NUMPY\1\0\x10\0" + b"(" * 16, "no header that can be read"),
        (b"not numpy's", "no header that can be read"),
        (b"", "no header that can be read"),
    ),
)
def test_arrays_that_are_not_what_they_say_are_named_with_their_file(tmp_path, images, message):
    path = write_npz(tmp_path / "data.npz", images=images, times=ARRAYS["times"])
    assert peak_mb(read_npz, path, EXPECTED, match=message) < 8
    with pytest.raises(InputError, match=r"array images in .*data\.npz"):
        read_npz(path, EXPECTED)


class Bomb:
    """Would make a file if unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_objects_are_never_unpickled(tmp_path):
    objects = np.array([Bomb(tmp_path / "made")], dtype=object)
    path = write_npz(tmp_path / "data.npz", images=npy(objects, allow_pickle=True))
    for kind in (np.uint8, np.object_, np.generic):
        with pytest.raises(InputError, match="is object of shape"):
            read_npz(path, {"images": (kind, 1)})
    assert not (tmp_path / "made").exists()


def test_a_zip_that_unpacks_to_more_than_it_promises_takes_no_memory(tmp_path):
    path = write_npz(tmp_path / "data.npz", images=huge(2, 3, 4) + bytes(2**27))
    assert peak_mb(read_npz, path, EXPECTED, match="but more are there") < 8


@pytest.mark.parametrize("method", (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
def test_methods_that_unpack_without_a_bound_are_not_tried(tmp_path, method):
    path = write_npz(tmp_path / "data.npz", method, images=huge(2, 3, 4) + bytes(2**25))
    assert peak_mb(read_npz, path, EXPECTED, match="packed in a way that numpy does not") < 8


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (None, "there is no file"),
        (b"", "damaged or no npz file"),
        (npy(ARRAYS["images"]), "damaged or no npz file"),
        (b"PK\3\4 cut short", "damaged or no npz file"),
        (LFS_POINTER, "is a git-lfs pointer"),
    ),
)
def test_what_is_no_npz_file_is_said(tmp_path, content, message):
    path = tmp_path / "data.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_npz(path, EXPECTED)
    assert str(path) in str(raised.value)


def test_flipped_or_missing_bytes_in_an_npz_file_are_an_input_error_or_change_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 10, 10), np.uint8)
    path = write_npz(tmp_path / "data.npz", images=noise, times=ARRAYS["times"])
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        for damaged in (flipped(whole, at), whole[:at]):
            path.write_bytes(damaged)
            try:
                read = read_npz(path, EXPECTED)
            except InputError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                np.testing.assert_array_equal(read["images"], noise)
                np.testing.assert_array_equal(read["times"], ARRAYS["times"])
    assert refused > 1.5 * len(whole)


def test_a_missing_array_is_named_beside_those_that_are_there(tmp_path):
    path = write_npz(tmp_path / "data.npz", **ARRAYS)
    with pytest.raises(InputError, match="holds no array labels; it holds images, times"):
        read_npz(path, {"labels": (np.uint8, 1)})


def test_a_text_that_git_lfs_would_have_to_fetch(tmp_path):
    (tmp_path / "input.txt").write_bytes(LFS_POINTER)
    with pytest.raises(InputError, match="is a git-lfs pointer"):
        load_text(str(tmp_path))


def test_line_ends_and_byte_order_marks_change_no_text(tmp_path):
    text = "To be, or not to be\n" * 200
    for name, content in (("a", text.encode()), ("b", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())):
        (tmp_path / name).write_bytes(content)
    (plain,), (other,) = (load_text(str(tmp_path / name)).train[:] for name in "ab")
    assert torch.equal(plain, other)


def test_images_are_scaled_by_what_their_type_says():
    counts = torch.tensor([0, 1, 128, 255], dtype=torch.uint8)
    assert torch.equal(as_float(counts), torch.tensor([0, 1, 128, 255]) / 255)
    assert as_float(counts, torch.bfloat16).dtype == torch.bfloat16
    assert as_float(torch.tensor([False, True])).tolist() == [0.0, 1.0]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        floats = torch.tensor([0.0, 3.0], dtype=dtype)
        assert as_float(floats) is floats
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        with pytest.raises(TypeError, match="have no known range; give uint8, bool or floats"):
            as_float(torch.ones(2, dtype=dtype))


def test_held_out_digits_keep_their_angles_whatever_the_batches(tmp_path):
    folder = str(write_digits_folder(tmp_path / "digits", train=240, test=1300))
    plain, turned = load_digits(folder), turned_digits(folder)
    assert (turned.name, turned.note) == (plain.name, plain.note)
    assert torch.equal(turned.train[:][0], plain.train[:][0])
    for split in ("validation", "test"):
        images, labels = getattr(plain, split)[:]
        # as evaluation drew them batch by batch, of 500
        blocks = enumerate(labels.split(500))
        angles = [torch.rand(len(b), generator=torch.Generator().manual_seed(i)) * (2 * math.pi) for i, b in blocks]
        for size in (7, 500, 10_000):
            batches = list(zip(*batch_loader(getattr(turned, split), size), strict=True))
            for got, expected in zip(batches, (images, labels, torch.cat(angles)), strict=True):
                assert torch.equal(torch.cat(got), expected)


def test_empty_files_do_not_train(tmp_path):
    folder = write_digits_folder(tmp_path / "digits")
    write_idx(folder / "t10k-images-idx3-ubyte", torch.zeros(0, 28, 28))
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(0))
    with pytest.raises(InputError, match="0 labels"):
        load_digits(str(folder))


def test_shuffle_is_a_function_of_seed_and_epoch():
    dataset = DigitDataset(torch.zeros(100, 28, 28, dtype=torch.uint8), torch.arange(100))

    def order(seed, epoch):
        loader = batch_loader(dataset, 8, shuffle=True, seed=seed)
        loader.sampler.set_epoch(epoch)
        return [label for _, labels in loader for label in labels.tolist()]

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert len(set(order(0, 0))) == 96
    everything = [label for _, labels in batch_loader(dataset, 8) for label in labels.tolist()]
    assert everything == list(range(100))


def test_collated_batches_may_be_of_any_structure_and_repeat():
    volumes = [torch.full((size, 2), float(size)) for size in range(1, 11)]

    def collate(samples):
        return {"volumes": samples, "sizes": torch.tensor([len(sample) for sample in samples])}

    def epoch(number, dataset=volumes):
        loader = batch_loader(dataset, 4, shuffle=True, seed=1, collate=collate)
        loader.sampler.set_epoch(number)
        return list(loader)

    assert len(batch_loader(volumes, 4, collate=collate)) == 3
    ordered = list(batch_loader(volumes, 4, collate=collate))
    assert [batch["sizes"].tolist() for batch in ordered] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert all(volume is volumes[len(volume) - 1] for batch in ordered for volume in batch["volumes"])
    orders = [[batch["sizes"].tolist() for batch in epoch(number)] for number in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert [len(sizes) for sizes in orders[0]] == [4, 4]
    whole = DigitDataset(torch.zeros(10, 28, 28, dtype=torch.uint8), torch.arange(1, 11))
    loader = batch_loader(whole, 4, shuffle=True, seed=1)
    assert [labels.tolist() for _, labels in loader] == orders[0]
    assert all(max(batch["sizes"]) <= 5 for batch in epoch(0, Subset(volumes, torch.arange(5))))


@pytest.mark.parametrize("count, folds", ((50, 5), (23, 5), (10, 10), (7, 3)))
def test_folds_are_disjoint_and_hold_every_sample_out_once(count, folds):
    cuts = [fold_of(count, fold, folds, seed=3) for fold in range(folds)]
    for cut in cuts:
        assert torch.cat(cut).sort().values.tolist() == list(range(count))
        assert all(len(split) for split in cut)
        assert all(torch.equal(split, split.sort().values) for split in cut)
    for held_out in (1, 2):
        assert torch.cat([cut[held_out] for cut in cuts]).sort().values.tolist() == list(range(count))
    again = fold_of(count, 0, folds, seed=3)
    assert all(map(torch.equal, cuts[0], again))
    assert any(fold_of(count, 0, folds, seed=seed)[2].tolist() != again[2].tolist() for seed in range(5))


def test_folds_keep_the_shares_of_labels():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[
        torch.randperm(100, generator=torch.Generator().manual_seed(0))
    ]
    for fold in range(5):
        for split, parts in zip(fold_of(100, fold, 5, labels=labels), (3, 1, 1), strict=True):
            assert labels[split].bincount().tolist() == [12 * parts, 6 * parts, 2 * parts]


@pytest.mark.parametrize("labelled", (False, True))
def test_no_group_is_in_two_splits_of_a_fold(labelled):
    draws = torch.Generator().manual_seed(0)
    patients = torch.randint(20, (200,), generator=draws)
    labels = (patients % 2).tolist() if labelled else None
    cuts = [fold_of(200, fold, 5, seed=1, groups=patients, labels=labels) for fold in range(5)]
    for cut in cuts:
        groups = [set(patients[split].tolist()) for split in cut]
        assert sum(map(len, groups)) == 20
        assert set.union(*groups) == set(range(20))
        assert 20 <= len(cut[2]) <= 60
    assert torch.cat([cut[2] for cut in cuts]).sort().values.tolist() == list(range(200))


@pytest.mark.parametrize(
    ("count", "fold", "folds", "options"),
    (
        (10, 5, 5, {}),
        (10, -1, 5, {}),
        (10, 0, 2, {}),
        (4, 0, 5, {}),
        (10, 0, 5, {"labels": [0, 1] * 5 + [2]}),
        (12, 0, 5, {"groups": [0, 1, 2, 3, 4] * 2}),
        (10, 0, 6, {"labels": [0, 1] * 5}),
        (10, 0, 5, {"groups": [0, 1] * 5}),
    ),
)
def test_impossible_folds_are_refused(count, fold, folds, options):
    with pytest.raises(InputError, match="fold"):
        fold_of(count, fold, folds, **options)


def test_noise_does_what_its_units_say():
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((200, 1, 28, 28), 0.5)
    salted = add_noise(grey, "salt-and-pepper", 0.3, generator)
    assert (salted == 0).float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert (salted == 1).float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert (add_noise(grey, "gaussian", 0.1, generator) - grey).std().item() == pytest.approx(0.1, rel=0.02)
    assert (add_noise(grey, "speckle", 0.2, generator) - grey).std().item() == pytest.approx(0.1, rel=0.02)
    for noise in NOISES:
        assert torch.equal(add_noise(grey, noise, 0.0, generator), grey)
        loud = add_noise(grey, noise, 1.0, generator)
        assert loud.min() >= 0
        assert loud.max() <= 1
    with pytest.raises(ValueError, match="fog"):
        add_noise(grey, "fog", 0.1, generator)


def test_turn_and_zoom_moves_digits_as_far_as_asked():
    images = torch.zeros(500, 1, 29, 29)
    images[:, :, 14, 22] = 1
    moved = turn_and_zoom(images, 10.0, 0.1, torch.Generator().manual_seed(0))
    grid = torch.arange(29.0) - 14
    mass = moved.sum(dim=(1, 2, 3))
    x, y = (moved.sum(dim=(1, 2)) * grid).sum(1) / mass, (moved.sum(dim=(1, 3)) * grid).sum(1) / mass
    angle, radius = torch.rad2deg(torch.atan2(y, x)), torch.hypot(x, y)
    assert 9 < angle.max() < 11
    assert -11 < angle.min() < -9
    assert 8 / 1.1 - 0.3 < radius.min() < 7.6
    assert 8.5 < radius.max() < 8 / 0.9 + 0.3
    torch.testing.assert_close(turn_and_zoom(images, 0.0, 0.0, torch.Generator()), images)


def test_a_classifier_takes_images_by_what_their_type_says():
    model = MNISTClassifier(conv="normal", kernel_size=3).eval()
    images = torch.rand(2, 1, 28, 28) > 0.5
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images.float()))
    with pytest.raises(TypeError, match="no known range"):
        model(images.short())

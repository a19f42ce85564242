import struct
import threading
import time

import pytest
import torch
from conftest import write_digits_folder, write_idx

from hyperconv.data import batch_loader, load_digits
from hyperconv.data.augment import turn_and_zoom
from hyperconv.data.digits import DigitDataset
from hyperconv.data.noise import NOISES, add_noise
from hyperconv.errors import InputError


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
    from hyperconv.data.idx import read_idx

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


def test_a_network_that_never_answers_is_given_up_on(tmp_path, monkeypatch):
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


def test_a_download_is_taken_whole_or_not_at_all(tmp_path, monkeypatch):
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


def test_truncated_gzip_and_missing_folder(tmp_path):
    folder = write_digits_folder(tmp_path / "digits", compress=True)
    archive = folder / "train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        load_digits(str(folder))
    with pytest.raises(InputError, match="is no folder"):
        load_digits(str(tmp_path / "nowhere"))


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

import math
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import run
from torch import nn
from writers import write_hippocampus, write_volume, write_volumes

import hyperconv
from hyperconv.data import Splits, load_digits
from hyperconv.data.cases import Cases, collate
from hyperconv.data.clutter import digits_in_clutter
from hyperconv.data.hippocampus import hippocampus_slices, hippocampus_volumes, read_volumes, slice_with_most
from hyperconv.errors import InputError
from hyperconv.experiments import unet
from hyperconv.experiments.declared import experiments
from hyperconv.extras import command_for, missing
from hyperconv.zoo.unet import UNet, hyper_unet

needs_monai = pytest.mark.skipif(bool(missing(["medical"])), reason=command_for("medical"))
PARTS = ("anterior", "posterior")


# networks


@pytest.mark.parametrize(
    ("dims", "sides"), [(2, (48, 48)), (2, (35, 50)), (2, (17, 64)), (3, (16, 16, 16)), (3, (17, 20, 19))]
)
@pytest.mark.parametrize("make", [hyper_unet, UNet], ids=["hyper", "normal"])
def test_logits_are_as_large_as_the_image_whatever_its_sides(make, dims, sides):
    logits = make(dims, 3, (4, 4, 8, 8), 3)(torch.rand(2, 1, *sides))
    assert logits.shape == (2, 3, *sides)
    assert logits.std() > 0.1


def test_a_side_too_short_to_be_halved_is_told():
    with pytest.raises(ValueError, match=r"16 or longer, got \(15, 40\)"):
        UNet(2, 3)(torch.rand(1, 1, 15, 40))


@pytest.mark.parametrize(("dims", "features"), [(2, 4), (2, 8), (3, 4)])
def test_generated_kernels_take_as_many_parameters_whatever_their_size(dims, features):
    def parameters(network):
        return sum(parameter.numel() for parameter in network.parameters())

    widths = (4, 8)
    small, large = (hyper_unet(dims, 3, widths, size, features) for size in (3, 7))
    assert parameters(small) == parameters(large)
    channels = [(1, 4), (4, 4), (4, 8), (8, 8), (12, 4), (4, 4)]
    pairs = sum(inputs * outputs for inputs, outputs in channels)
    trunk = (dims * 16 + 16) + (16 * 16 + 16) + (16 * features + features)
    norms, classes = 2 * sum(outputs for _, outputs in channels), 4 * 3 + 3
    assert parameters(small) == (features + 2) * pairs + len(channels) * trunk + norms + classes
    assert parameters(UNet(dims, 3, widths, 3)) == 3**dims * pairs + norms + classes


@pytest.mark.parametrize("dims", [2, 3])
def test_generated_kernels_are_those_of_a_plain_network(dims):
    torch.manual_seed(0)
    network, images = hyper_unet(dims, 3, (4, 8)).eval(), torch.rand(1, 1, *[16] * dims)
    baked = hyperconv.bake(network)
    assert not any(isinstance(module, hyperconv.layers.HyperLayer) for module in baked.modules())
    torch.testing.assert_close(baked(images), network(images), atol=1e-5, rtol=1e-4)


# figures


def maps(*cases):
    return torch.tensor(cases).view(len(cases), 1, 1, -1)


@needs_monai
def test_dice_by_hand():
    predicted, labels = maps([1, 1, 0, 2], [0, 0, 0, 2]), maps([1, 0, 0, 2], [1, 0, 0, 0])
    assert unet.dice(predicted, labels, PARTS).tolist() == pytest.approx(np.array([[2 / 3, 1], [0, 0]]))
    assert unet.dice(maps([0, 0]), maps([0, 1]), PARTS).tolist() == [[0, 1]]


@needs_monai
def test_hausdorff_distance_by_hand():
    truth, moved = torch.zeros(2, 1, 1, 20, 30, dtype=torch.long)
    truth[..., 5:10, 5:10] = 1
    moved[..., 5:10, 8:13] = 1
    assert unet.hausdorff_95(moved, truth, PARTS) == [3, 0]
    assert unet.hausdorff_95(truth, truth, PARTS) == [0, 0]
    assert unet.hausdorff_95(torch.zeros_like(truth), truth, PARTS) == [pytest.approx(math.hypot(19, 29)), 0]
    # of 76 pixels of the outline, one that lies apart is not among the nearest 95 %
    truth[..., 2:17, 2:27] = 1
    stray = truth.clone()
    stray[..., 19, 29] = 1
    assert unet.hausdorff_95(stray, truth, PARTS) == [0, 0]


@needs_monai
def test_loss_by_hand():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 1, 4, 5))
    chances, ones = logits.softmax(1), F.one_hot(labels[:, 0], 3).movedim(-1, 1)
    overlap, sizes = (chances * ones).sum((2, 3)), (chances + ones).sum((2, 3))
    expected = (1 - (2 * overlap + 1e-5) / (sizes + 1e-5)).mean() + F.cross_entropy(logits, labels[:, 0])
    assert unet.dice_and_entropy(logits, labels.to(torch.uint8)).item() == pytest.approx(expected.item(), rel=1e-5)


class Threshold(nn.Module):
    """Logits from brightness, right where an image is 127 times its labels."""

    def forward(self, images):
        return -(images - torch.tensor([0, 0.5, 1]).view(3, *[1] * (images.dim() - 2))).square()


def coded(dims):
    """Splits of images that tell their labels."""
    draws = torch.Generator().manual_seed(0)
    labels = [torch.zeros(1, *[20 + number] * dims, dtype=torch.uint8) for number in range(3)]
    for each in labels:
        left, top = torch.randint(2, 8, (2,), generator=draws).tolist()
        each[:, left : left + 8, top : top + 8] = 1
        each[:, left + 3 : left + 8, top : top + 8] = 2
    cases = Cases([(127 * each, each) for each in labels])
    return Splits("coded", cases, cases, cases, "")


@needs_monai
@pytest.mark.parametrize("dims", [2, 3])
def test_figures_of_a_network_that_knows(dims):
    task = unet.TASKS["hippocampus", dims]
    found = unet.figures_on_test(task, (0.05, 0.9), Threshold(), coded(dims))
    figures = {(figure.metric, figure.at): figure.value for figure in found}
    assert figures["HD95", ""] == 0
    assert all(figures["Dice", part] == 1 and figures["HD95", part] == 0 for part in PARTS)
    for noise in ("gaussian", "salt-and-pepper", "speckle"):
        assert figures["Dice", f"{noise} 0.9"] < figures["Dice", f"{noise} 0.05"] <= 1
    assert figures == {
        (figure.metric, figure.at): figure.value
        for figure in unet.figures_on_test(task, (0.05, 0.9), Threshold(), coded(dims))
    }


@needs_monai
def test_a_case_counts_once_whatever_its_size():
    splits = coded(2)
    task = unet.TASKS["hippocampus", 2]
    batch = collate([splits.test[number] for number in range(3)])
    batch[1][0] = torch.zeros_like(batch[1][0])
    batch[1][0][:, 0, 0] = 1
    values = unet.segmentation(task, Threshold(), batch, None)
    assert values["dice"].tolist() == pytest.approx(np.array([[0, 0], [1, 1], [1, 1]]))


@needs_monai
@pytest.mark.parametrize("dims", [2, 3])
def test_training_moves_images_and_labels_alike(dims):
    cases, patch = [(127 * labels, labels) for _, labels in [coded(dims).train[2]] * 2], (24,) * dims

    def drawn(seed):
        return [
            torch.stack(each)
            for each in zip(*unet.moved(cases, patch, torch.Generator().manual_seed(seed)), strict=True)
        ]

    (images, labels), again, other = drawn(0), drawn(0), drawn(1)
    assert images.shape == labels.shape == (2, 1, *patch)
    torch.testing.assert_close((images, labels), tuple(again))
    assert not torch.equal(labels, other[1])
    assert not torch.equal(labels[0], labels[1])
    right = Threshold()(images).argmax(1, keepdim=True) == labels
    assert labels.unique().tolist() == [0, 1, 2]
    assert right[labels > 0].float().mean() > 0.85


@needs_monai
@pytest.mark.parametrize("dims", (2, pytest.param(3, marks=pytest.mark.slow)))
@pytest.mark.parametrize(
    "make", [hyper_unet, UNet, lambda dims, classes, widths, kernel: unet.dynunet(dims, classes, 4)]
)
def test_a_few_steps_teach_every_network_to_find_both_parts(make, dims):
    task, splits = unet.TASKS["hippocampus", dims]._replace(patch=(24,) * dims), coded(dims)
    torch.manual_seed(0)
    network = make(dims, 3, (4, 8), 3)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    draws = torch.Generator().manual_seed(0)
    batch = collate([splits.train[number] for number in range(3)])
    for _ in range(80):
        optimizer.zero_grad()
        unet.segmentation(task, network, batch, draws)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        assert unet.segmentation(task, network.eval(), batch, None)["dice"].mean() > 0.6


@needs_monai
def test_cases_are_drawn_outlined_beside_kernels():
    torch.manual_seed(0)
    networks = {"hyper-4": hyper_unet(3, 3, (4, 4)).eval(), "normal-3": UNet(3, 3, (4, 4), 3).eval()}
    task, splits = unet.TASKS["hippocampus", 3], coded(3)
    figure = unet.outlines(task, "unet-3d", networks, splits)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["image", "truth", "hyper-4", "normal-3", *["hyper-4", "normal-3"] * 2]
    told = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]
    image, labels = splits.test[0]
    found = unet.whole(networks["hyper-4"], image / 255, task.window).argmax(1, keepdim=True)
    assert told[0] == f"Dice {unet.dice(found, labels.unsqueeze(0), PARTS).mean().item():.3f}"
    kernel = networks["normal-3"].down[0][0].weight[:, 0, :, :, 1].detach()
    shown = figure.axes[-3].images[0].get_array()
    np.testing.assert_allclose(shown[:3, 4:7], kernel[1])
    plt.close(figure)


# data


@pytest.mark.parametrize(("dims", "sides"), [(2, (48, 48)), (3, (48, 48, 16))])
def test_scenes_hold_a_three_and_an_eight_that_are_bright(digits_folder, dims, sides):
    splits = digits_in_clutter(str(digits_folder), dims)
    digits = load_digits(str(digits_folder)).test
    for number in range(5):
        image, labels = splits.test[number]
        assert image.shape == labels.shape == (1, *sides)
        assert labels.unique().tolist() == [0, 1, 2]
        assert (image[labels > 0] > 127).all()
        for label, digit in ((1, 3), (2, 8)):
            of_class = digits.images[digits.labels == digit]
            size = ((of_class[number % len(of_class), 4:24, 4:24]) > 127).sum()
            assert (labels == label).sum() == size * (1 if dims == 2 else 6)
        assert (image[labels == 0] > 127).any()


def test_few_scenes_are_the_first_of_all_in_an_epoch_as_long(digits_folder):
    whole, few = (digits_in_clutter(str(digits_folder), patients=count).train for count in (None, 10))
    assert len(whole) == len(few) == 800
    assert torch.equal(few[3][0], whole[3][0])
    assert torch.equal(few[13][0], whole[3][0])
    with pytest.raises(InputError, match="400 patients to train on, fewer than --patients 401"):
        digits_in_clutter(str(digits_folder), patients=401)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    pytest.importorskip("nibabel", reason=command_for("medical"))
    return write_volumes(tmp_path_factory.mktemp("volumes"))


def test_volumes_are_bytes_between_quantiles(volumes):
    import nibabel

    numbers, cases = read_volumes(volumes)
    assert numbers == [*range(1, 21)]
    original = np.asarray(nibabel.load(volumes / "imagesTr" / "hippocampus_002.nii.gz").dataobj)
    low, high = np.quantile(original, [0.005, 0.995])
    expected = np.clip((original - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(cases[1][0][0].numpy(), expected, atol=0.51)
    assert cases[1][1].unique().tolist() == [0, 1, 2]
    assert all(image.shape == labels.shape for image, labels in cases)


def numbers_in(split, volumes):
    """Of the files that a split's cases are from."""
    sums = {int(image.long().sum()): number for number, (image, _) in zip(*read_volumes(volumes), strict=True)}
    return [sums[int(image.long().sum())] for image, _ in split.cases]


def test_every_patient_is_tested_once_and_in_no_other_split(volumes):
    tested = []
    for fold in range(5):
        splits = hippocampus_volumes(str(volumes), fold)
        parts = [numbers_in(split, volumes) for split in (splits.train, splits.validation, splits.test)]
        assert [len(part) for part in parts] == [12, 4, 4]
        assert sorted(number for part in parts for number in part) == [*range(1, 21)]
        patients = [{(number + 1) // 2 for number in part} for part in parts]
        assert [len(part) for part in patients] == [6, 2, 2]
        tested += parts[2]
    assert sorted(tested) == [*range(1, 21)]


def test_few_patients_are_among_many_and_epochs_are_as_long(volumes):
    two, four, every = (hippocampus_volumes(str(volumes), patients=count).train for count in (2, 4, None))
    assert len(two) == len(four) == len(every) == 24
    of_two, of_four, of_every = (set(numbers_in(split, volumes)) for split in (two, four, every))
    assert of_two < of_four < of_every
    assert [len({(number + 1) // 2 for number in numbers}) for numbers in (of_two, of_four)] == [2, 4]
    assert torch.equal(two[5][0], two[1][0])
    with pytest.raises(InputError, match="6 patients to train on, fewer than --patients 7"):
        hippocampus_volumes(str(volumes), patients=7)


def test_slices_are_of_the_same_folds_as_volumes(volumes):
    slices, whole = (load(str(volumes), fold=2) for load in (hippocampus_slices, hippocampus_volumes))
    for (image, labels), (volume, of_volume) in zip(slices.test, whole.test, strict=True):
        assert image.shape == labels.shape == (1, 64, 64)
        most = max(range(volume.shape[3]), key=lambda number: (of_volume[..., number] > 0).sum())
        rows, columns = volume.shape[1:3]
        top, left = (64 - rows) // 2, (64 - columns) // 2
        assert torch.equal(image[:, top : top + rows, left : left + columns], volume[..., most])
        assert (labels > 0).sum() == (of_volume[..., most] > 0).sum()


def test_a_slice_larger_than_its_frame_loses_its_edges():
    image = torch.arange(70 * 66).view(1, 70, 66, 1).expand(1, 70, 66, 2)
    labels = torch.zeros(1, 70, 66, 2)
    labels[:, 30, 30, 1] = 1
    cut, of_cut = slice_with_most(image, labels)
    assert torch.equal(cut[0], image[0, 3:67, 1:65, 0])
    assert of_cut.nonzero().tolist() == [[0, 27, 29]]


def changed(folder, volumes, which="labelsTr", change=lambda values: values, affine=None):
    """A copy of the volumes in which one file is another."""
    import nibabel

    shutil.copytree(volumes, folder)
    path = folder / which / "hippocampus_003.nii.gz"
    write_volume(path, change(np.asarray(nibabel.load(path).dataobj)), affine)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"affine": np.diag([-1, 1, 1, 1])}, "has axes LAS and voxels of 1 x 1 x 1 mm; resample it to RAS and 1 mm"),
        ({"affine": np.diag([1, 1, 2.5, 1])}, "axes RAS and voxels of 1 x 1 x 2.5 mm"),
        ({"affine": np.eye(4)[[1, 0, 2, 3]], "which": "imagesTr"}, "has axes ARS"),
        ({"change": lambda labels: labels + 1}, r"other labels than 0 \(background\), 1 and 2 \(anterior, posterior\)"),
        ({"change": lambda labels: labels * np.float32(0.5)}, "other labels than 0"),
        ({"change": lambda labels: labels[1:]}, "its image of"),
        ({"change": lambda labels: labels[..., None]}, "volumes have three axes"),
        ({"change": lambda image: np.full_like(image, np.nan), "which": "imagesTr"}, "no numbers"),
    ],
)
def test_unusable_volumes_are_told_in_one_line(tmp_path, volumes, change, said):
    with pytest.raises(InputError, match=said) as raised:
        read_volumes(changed(tmp_path / "volumes", volumes, **change))
    assert "hippocampus_003" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_and_damaged_volumes(tmp_path, volumes):
    with pytest.raises(InputError, match=r"no NIfTI files in .*imagesTr; give the folder"):
        read_volumes(tmp_path)
    folder = tmp_path / "volumes"
    shutil.copytree(volumes, folder)
    (folder / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"left by an archiver")
    assert len(read_volumes(folder)[0]) == 20
    path = folder / "imagesTr" / "hippocampus_004.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"hippocampus_004.nii.gz is damaged or no NIfTI file"):
        read_volumes(folder)
    (folder / "imagesTr" / "hippocampus_001.nii.gz").rename(folder / "imagesTr" / "a.nii.gz")
    with pytest.raises(InputError, match=r"a.nii.gz has no number"):
        read_volumes(folder)
    (folder / "imagesTr" / "a.nii.gz").unlink()
    (folder / "labelsTr" / "hippocampus_002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"there is no .*hippocampus_002.nii.gz; every file of imagesTr needs one"):
        read_volumes(folder)
    for path in sorted((folder / "imagesTr").glob("h*"))[3:]:
        path.unlink()
    with pytest.raises(InputError, match="holds 3 volumes; for 5 folds"):
        read_volumes(folder)


@needs_monai
def test_what_cannot_be_downloaded_is_told(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("monai.apps.DecathlonDataset", refuse)
    with pytest.raises(InputError, match=r"no download of it \(OSError: no network in this test\); give the folder of"):
        hippocampus_volumes()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_monai
def test_a_download_is_kept(tmp_path, monkeypatch, volumes):
    def archive(root, task, section, download, **options):
        shutil.copytree(volumes, f"{root}/{task}")
        (tmp_path / root / f"{task}.tar").write_bytes(b"packed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("monai.apps.DecathlonDataset", archive)
    first = hippocampus_volumes()
    assert sorted(path.name for path in (tmp_path / "data/hippocampus/Task04_Hippocampus").iterdir()) == [
        "imagesTr",
        "labelsTr",
    ]
    monkeypatch.setattr("monai.apps.DecathlonDataset", None)
    assert torch.equal(hippocampus_volumes().test[0][0], first.test[0][0])
    assert hippocampus_slices().test[0][0].shape == (1, 64, 64)


# the command line


@needs_monai
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("unet", "--task", "hippocampus", "--data", "nowhere"), "no NIfTI files in nowhere/imagesTr"),
        (("unet-3d", "--task", "hippocampus", "--data", "nowhere"), "no NIfTI files in nowhere/imagesTr"),
        (("unet", "--every_fold"), "--every_fold is for hippocampus"),
        (("unet", "--patients", "500"), "fewer than --patients 500"),
        (("unet", "--patients", "0"), 'key "patients"'),
        (("unet", "--width", "100000"), "no network can be made of these settings"),
    ],
)
def test_flags_that_do_not_fit(capsys, tmp_path, digits_folder, flags, said):
    folders = ("--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out"))
    data = () if "--data" in flags else ("--data", str(digits_folder))
    code, _, err = run(capsys, "--experiment", *flags, *data, *folders)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "logs").exists()


@needs_monai
def test_slices_are_segmented_in_every_fold(capsys, tmp_path):
    data = write_hippocampus(tmp_path / "hippocampi")
    flags = ("--task", "hippocampus", "--data", str(data), "--every_fold", "--patients", "3", "--width", "2")
    more = (
        "--arms",
        "normal-3",
        "--epochs",
        "1",
        "--accelerator",
        "cpu",
        "--name",
        "run",
        "--logs",
        str(tmp_path / "logs"),
    )
    code, out, _ = run(capsys, "--experiment", "unet", *flags, *more, "--out", str(tmp_path / "out"))
    assert code in (0, 1)
    assert "fold 0 of 5: 6 training slices of 3 patients" in out
    assert len(list((tmp_path / "logs" / "run" / "normal-3").glob("**/best.ckpt"))) == 5


@needs_monai
def test_networks_of_wide_kernels_and_dynunet_take_about_as_many_operations():
    from torch.utils.flop_counter import FlopCounterMode

    for name, sides in (("unet", (64, 64)), ("unet-3d", (16, 16, 16))):
        operations = {}
        for arm, each in experiments()[name].arms.items():
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                each.network()(torch.rand(1, 1, *sides))
            operations[arm] = counter.get_total_flops()
        assert operations["hyper-4"] == pytest.approx(operations["normal-5"], rel=0.1)
        assert operations["dynunet"] == pytest.approx(operations["normal-5"], rel=0.35)
        assert operations["normal-3"] < operations["normal-5"] / 2

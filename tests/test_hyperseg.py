"""HyperSeg: its networks, its scenes, what is measured of them and drawn."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import BRIGHTEST, run, told_apart
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex

from hyperconv.data import Splits, batch_loader, load_digits
from hyperconv.data.scenes import SCENE_CLASSES, composed, digit_scenes
from hyperconv.experiments import hyperseg
from hyperconv.experiments.declared import experiments
from hyperconv.training.objectives import Measured
from hyperconv.zoo.hyperseg import ContextHead, HyperSeg, MetaBlock, MetaDecoder, StaticDecoder, divided

DECODERS = {"hyper": MetaDecoder, "global": partial(MetaDecoder, one_kernel=True), "static": StaticDecoder}


def with_live_statistics(network):
    """Norms that neither are the identity nor depend on the batch, and generators that look at the signal."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():
        if "generator" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().double()


@torch.no_grad()
def test_a_meta_block_is_a_network_of_its_own_in_every_patch():
    block = with_live_statistics(MetaBlock(4, 5, 3, signal_channels=(3, 1, 2)))
    images, signal = torch.randn(2, 4, 12, 8).double(), torch.randn(2, 6, 3, 2).double()
    found = block(images, signal)
    extended = F.pad(images, [1] * 4, mode="reflect")
    for sample, row, column in np.ndindex(2, 3, 2):
        features = extended[sample : sample + 1, :, 4 * row : 4 * row + 6, 4 * column : 4 * column + 6]
        contexts = signal[sample : sample + 1, :, row, column].split([3, 1, 2], dim=1)
        for number, (layer, context) in enumerate(zip(block.convolutions, contexts, strict=True)):
            (kernel,) = layer.generator(context)
            features = F.conv2d(features, kernel, groups=layer.groups)
            norm = block.after[number][0]
            features = F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            features = features.clamp(0, 6) if number < 2 else features
        patch = found[sample, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(features[0], patch)


@torch.no_grad()
def test_a_patch_answers_to_its_own_signal_alone():
    block = with_live_statistics(MetaBlock(4, 5, 3, signal_channels=(3, 1, 2)))
    images, signal = torch.randn(1, 4, 12, 8).double(), torch.randn(1, 6, 3, 2).double()
    other = signal.clone()
    other[0, :, 1, 0] += 1
    changed = (block(images, signal) != block(images, other)).any(1)[0]
    expected = torch.zeros(12, 8, dtype=torch.bool)
    expected[4:8, :4] = True
    assert torch.equal(changed, expected)


@torch.no_grad()
def test_one_kernel_a_sample_is_that_of_the_mean_signal():
    patches = with_live_statistics(HyperSeg(MetaDecoder, 3))
    whole = HyperSeg(partial(MetaDecoder, one_kernel=True), 3).eval().double()
    whole.load_state_dict(patches.state_dict())
    images = torch.rand(2, 1, 32, 48).double()
    features = [images]
    for stage in patches.encoder:
        features.append(stage(features[-1]))
    mean = patches.signal(images).mean((2, 3), keepdim=True)
    torch.testing.assert_close(whole(images), patches.decoder(features, mean.expand(-1, -1, 2, 3)))
    assert (whole(images) - patches(images)).abs().max() > 1e-3


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("sides", [(64, 64), (60, 37), (7, 9), (1, 1), (16, 80)])
@torch.no_grad()
def test_images_of_any_size_are_those_extended_to_whole_patches(decoder, sides):
    torch.manual_seed(0)
    network = HyperSeg(decoder, 11).eval().double()
    images = torch.rand(2, 1, *sides).double()
    beyond = [-side % 16 for side in sides]
    extended = F.pad(images, (0, beyond[1], 0, beyond[0]), mode="replicate")
    found = network(images)
    assert found.shape == (2, 11, *sides)
    torch.testing.assert_close(found, network(extended)[:, :, : sides[0], : sides[1]])
    assert network.signal(images).shape == (2, 48, *(side // 16 for side in extended.shape[2:]))


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 64, 64), (2, 1, 0, 64)])
def test_images_of_other_channels_or_no_pixels(shape):
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\) of at least a pixel, got"):
        HyperSeg(MetaDecoder, 11)(torch.zeros(shape))


@pytest.mark.parametrize("sides", [(4, 4), (3, 5), (1, 1)])
def test_the_signal_has_unit_scale_and_knows_all_of_the_image(sides):
    torch.manual_seed(0)
    head = ContextHead(16, 32).double().eval()
    features = torch.randn(2, 16, *sides, dtype=torch.float64, requires_grad=True)
    signal = head(features)
    assert signal.shape == (2, 32, *sides)
    torch.testing.assert_close(signal.mean(1), torch.zeros(2, *sides).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(signal.var(1, correction=0), torch.ones(2, *sides).double(), atol=1e-2, rtol=0)
    (gradient,) = torch.autograd.grad(signal[0, 0, 0, 0], features)
    assert (gradient[0].abs().sum(0) > 0).all()
    assert not gradient[1].any()


@pytest.mark.parametrize(
    ("units", "weights", "shares"),
    [
        (10, [700, 200, 99, 1], [6, 2, 1, 1]),
        (4, [1000, 1, 1, 1], [1, 1, 1, 1]),
        (7, [1, 1, 1], [3, 2, 2]),
        (100, [60, 40], [60, 40]),
    ],
)
def test_units_are_divided_in_proportion(units, weights, shares):
    assert divided(units, weights) == shares


def test_a_signal_too_narrow_for_all_kernels():
    with pytest.raises(ValueError, match="a signal of 8 channels makes at most so many kernels, not 9"):
        HyperSeg(MetaDecoder, 11, signal_channels=8)


def test_scenes_show_their_digits_and_classes(digits_folder):
    digits = load_digits(str(digits_folder)).test
    images, classes = composed(digits, 50, torch.Generator().manual_seed(0))[:]
    assert images.shape == (50, 1, 64, 64)
    assert classes.shape == (50, 64, 64)
    assert torch.equal(classes > 0, images[:, 0] >= 128)
    ink = (images > 0).flatten(1).sum(1)
    one = (digits.images > 0).flatten(1).sum(1)
    assert (ink <= 4 * one.max()).all()
    assert (ink >= 1.2 * one.min()).all()
    assert (digits.labels + 1).unique().tolist() == classes.unique()[1:].tolist()


def test_each_pixel_is_of_the_digit_that_is_brightest_there():
    digits = load_like(torch.tensor([255, 200]), torch.tensor([7, 2]))
    images, classes = composed(digits, 200, torch.Generator().manual_seed(0))[:]
    assert set(images.unique().tolist()) == {0, 200, 255}
    assert torch.equal(classes == 8, images[:, 0] == 255)
    assert torch.equal(classes == 3, images[:, 0] == 200)


def load_like(brightness, labels):
    from hyperconv.data.digits import DigitDataset

    images = brightness.to(torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    return DigitDataset(images, labels)


def test_scenes_are_the_same_every_time_and_of_the_digits_of_their_split(digits_folder, monkeypatch):
    monkeypatch.setattr("hyperconv.data.scenes._SCENES", {"train": 30, "validation": 10, "test": 20})
    monkeypatch.setattr("hyperconv.data.scenes.load_digits", lambda source: told_apart(load_digits(source)))
    first, again = (digit_scenes(str(digits_folder)) for _ in range(2))
    for split, most in BRIGHTEST.items():
        for ours, theirs in zip(getattr(first, split)[:], getattr(again, split)[:], strict=True):
            assert torch.equal(ours, theirs)
        assert getattr(first, split)[:][0].max() == most
    assert "scenes of 2 to 4 digits: 30 train, 10 validation, 20 test" in first.note


def test_a_folder_without_digits_is_one_line(capsys, tmp_path):
    code, _, err = run(capsys, "--experiment", "hyperseg", "--data", str(tmp_path), "--logs", str(tmp_path / "logs"))
    assert code == 2
    assert err.count("\n") == 1
    assert "lacks train-images-idx3-ubyte" in err


class Always(torch.nn.Module):
    """Says what it was given, whatever the images."""

    patch = 4

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, images):
        return F.one_hot(self.classes.long(), SCENE_CLASSES).movedim(-1, 1)[: len(images)].float()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_miou_is_that_of_the_whole_split(size):
    torch.manual_seed(0)
    images, classes = torch.rand(7, 1, 8, 8), torch.randint(0, 4, (7, 8, 8))
    guesses = torch.where(torch.rand(7, 8, 8) < 0.6, classes, torch.randint(0, 4, (7, 8, 8)))
    objective = experiments()["hyperseg"].objective
    measured = Measured(objective)
    for start in range(0, 7, size):
        part = slice(start, start + size)
        batch = images[part], classes[part]
        measured.update(objective.score(Always(guesses[part]), batch, None), objective.samples(batch))
    unions = [((classes == c) & (guesses == c)).sum() / ((classes == c) | (guesses == c)).sum() for c in range(4)]
    assert measured.figures()["miou"] == pytest.approx(float(sum(unions) / 4), rel=1e-6)
    reference = MulticlassJaccardIndex(SCENE_CLASSES)
    assert measured.figures()["miou"] == pytest.approx(reference(guesses, classes).item())


def test_loss_is_the_mean_cross_entropy_of_pixels():
    torch.manual_seed(0)
    logits, classes = torch.randn(2, SCENE_CLASSES, 3, 3), torch.randint(0, 11, (2, 3, 3))
    loss = hyperseg.segmentation(lambda images: logits, (torch.rand(2, 1, 3, 3), classes), None)["loss"]
    expected = -logits.log_softmax(1).gather(1, classes[:, None]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_borders_are_the_pixels_on_both_sides_of_lines_between_patches():
    at = hyperseg.borders(8, 12, 4)
    rows, columns = np.indices((8, 12))
    expected = np.isin(rows, (3, 4)) | np.isin(columns, (3, 4, 7, 8))
    np.testing.assert_array_equal(at, expected)
    # lines at 2 and 10 would lie closer to the edge than those between patches
    np.testing.assert_array_equal(hyperseg.borders(8, 12, 4, shift=2), np.isin(columns, (5, 6)))


def test_errors_at_borders_are_weighed_against_all_others():
    classes = torch.zeros(7, 8, 12, dtype=torch.long)
    guesses = classes.clone()
    guesses[0, 3, 0] = guesses[3, 0, 4] = guesses[5, 4, 4] = 1
    guesses[6, 0, 0] = 2
    scenes = TensorDataset(torch.zeros(7, 1, 8, 12), classes)
    splits = Splits("", scenes, scenes, scenes, "")
    at_borders, away = hyperseg.seams(Always(guesses), splits)
    assert at_borders == ("error at borders over inside", pytest.approx((3 / 48) / (1 / 48)), "patch borders")
    assert away.value == pytest.approx(0)
    assert away.at == "half a patch away"


@pytest.fixture(scope="module")
def learned(digits_folder):
    """Scenes, and small networks after a few steps on them."""
    digits = load_digits(str(digits_folder))
    draws = torch.Generator().manual_seed(0)
    splits = Splits("few", *(composed(digits.train, count, draws) for count in (64, 8, 12)), "")
    networks = {}
    for arm, decoder in DECODERS.items():
        torch.manual_seed(0)
        network = HyperSeg(decoder, SCENE_CLASSES, widths=(8, 8, 16, 16), signal_channels=16)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for batch in list(batch_loader(splits.train, 16, shuffle=True)) * 10:
            optimizer.zero_grad()
            hyperseg.segmentation(network, batch, draws)["loss"].backward()
            optimizer.step()
        networks[arm] = network.eval()
    return networks, splits


@pytest.mark.parametrize("arm", DECODERS)
@torch.no_grad()
def test_every_arm_learns_more_than_how_common_classes_are(learned, arm):
    networks, splits = learned
    images, classes = splits.test[:]
    loss = hyperseg.segmentation(networks[arm], (images, classes), None)["loss"]
    shares = classes.flatten().bincount(minlength=SCENE_CLASSES) / classes.numel()
    assert loss < 0.8 * torch.special.entr(shares).sum()


def test_scenes_are_drawn_with_predictions_and_the_patches_in_a_plane(learned):
    networks, splits = learned
    figure = hyperseg.figure(networks, splits)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[:6] == ["scene", "truth", "hyper", "global", "static", "weights"]
    images, classes = splits.test[:]
    truth = next(axis for axis in figure.axes if axis.get_title() == "truth").images[0].get_array()
    np.testing.assert_array_equal(truth, classes[0])
    guess = next(axis for axis in figure.axes if axis.get_title() == "hyper").images[0].get_array()
    with torch.no_grad():
        np.testing.assert_array_equal(guess, networks["hyper"](images / 255).argmax(1)[0])
    plane = figure.axes[-1]
    points = np.concatenate([dots.get_offsets() for dots in plane.collections])
    assert len(points) == 12 * 16
    # the components are those of patches with digits, the grey ones come first
    with_digits = np.concatenate([dots.get_offsets() for dots in plane.collections[1:]])
    assert abs(with_digits.mean(0)).max() < 1e-3
    plt.close(figure)


def test_the_commonest_digit_of_a_patch():
    classes = torch.zeros(1, 4, 4, dtype=torch.uint8)
    classes[0, 0, 0], classes[0, 1, :2] = 3, 5
    classes[0, 3, 3] = 10
    assert hyperseg.commonest(classes, 2).tolist() == [[[5, 0], [0, 10]]]

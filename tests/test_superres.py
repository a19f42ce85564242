import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import run
from writers import write_images

from hyperconv.data import as_float, batch_loader
from hyperconv.data import superres as data
from hyperconv.errors import InputError
from hyperconv.experiments import superres
from hyperconv.experiments.declared import experiments
from hyperconv.training.objectives import Measured
from hyperconv.zoo.conditioned_srcnn import SRCNN, BiasedSRCNN, Bicubic, ConcatenatedSRCNN, ConditionedSRCNN

TOLD = data.COEFFICIENTS
EXPERIMENT = experiments()["superres"]


def test_kernels_have_the_widths_and_the_angle_that_were_asked_for():
    widths, angles = torch.tensor([[2.0, 1.0], [1.5, 0.8]]), torch.tensor([0.0, torch.pi / 6])
    kernels = data.gaussian_kernels(widths, angles).double()
    place = torch.arange(16) - 7.5
    right, up = place.expand(16, 16), -place.unsqueeze(1).expand(16, 16)
    for kernel, (first, second), angle in zip(kernels, widths.tolist(), angles.tolist(), strict=True):
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        expected = turned @ np.diag([first**2, second**2]) @ turned.T
        moments = [[float((kernel * a * b).sum()) for b in (right, up)] for a in (right, up)]
        np.testing.assert_allclose(moments, expected, atol=0.01)
        assert kernel.sum().item() == pytest.approx(1, abs=1e-5)


def test_no_training_kernel_is_like_one_that_is_held_out():
    train, *held_out = data.blur_kernels()
    assert [len(each) for each in held_out] == [data.HELD_OUT] * 2
    assert len(train) > 500
    others = torch.cat([train, *held_out])
    for number, kernel in enumerate(torch.cat(held_out)):
        distances = (others - kernel).flatten(1).norm(dim=1) / kernel.norm()
        assert distances[len(train) + number] == 0
        distances[len(train) + number] = torch.inf
        assert distances.min() > 0.19


def test_what_is_told_are_decorrelated_coordinates_that_hold_the_kernels():
    kernels = data.blur_kernels()
    told = data.coefficients(kernels.train)
    torch.testing.assert_close(torch.cov(told.T), torch.eye(TOLD), atol=1e-2, rtol=0)
    torch.testing.assert_close(told.mean(dim=0), torch.zeros(TOLD), atol=1e-3, rtol=0)
    fit = torch.linalg.lstsq(torch.cat([told, torch.ones(len(told), 1)], dim=1), kernels.train.flatten(1)).solution
    test = torch.cat([data.coefficients(kernels.test), torch.ones(data.HELD_OUT, 1)], dim=1)
    missed = (test @ fit - kernels.test.flatten(1)).norm(dim=1) / kernels.test.flatten(1).norm(dim=1)
    assert missed.max() < 0.15


def test_a_pixel_is_seen_as_the_kernel_sampled_at_every_other_place():
    kernel = data.blur_kernels().test[:1]
    image = torch.zeros(1, 1, 28, 28)
    row, column = 12, 15
    image[0, 0, row, column] = 1
    seen = data.blurred_and_halved(image, kernel)[0, 0]
    for i in range(14):
        for j in range(14):
            down, right = row + 7 - 2 * i, column + 7 - 2 * j
            weight = kernel[0, down, right] if 0 <= down < 16 and 0 <= right < 16 else 0.0
            assert seen[i, j].item() == pytest.approx(round(255 * float(weight)) / 255, abs=1e-6)


def test_what_is_seen_is_neither_shifted_nor_darker_at_the_edges():
    images = torch.rand(2, 1, 20, 24)
    round_kernels = data.middle_kernel().expand(2, -1, -1)
    seen = data.blurred_and_halved(images, round_kernels)
    torch.testing.assert_close(
        data.blurred_and_halved(images.flip(2, 3), round_kernels), seen.flip(2, 3), atol=4e-3, rtol=0
    )
    flat = data.blurred_and_halved(torch.full((1, 1, 20, 24), 0.6), round_kernels[:1])
    torch.testing.assert_close(flat, torch.full_like(flat, 0.6))


def test_bicubic_interpolation_has_keys_weights():
    low = torch.zeros(1, 1, 9, 9)
    low[0, 0, 4, 4] = 1
    distances = (np.arange(18) - 0.5) / 2 - 4
    near, far = np.abs(distances) < 1, np.abs(distances) < 2
    x = np.abs(distances)
    weights = np.where(near, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(far, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    enlarged = Bicubic()(low, torch.zeros(1, TOLD))[0, 0]
    np.testing.assert_allclose(enlarged, np.outer(weights, weights), atol=1e-6)


@pytest.mark.parametrize("arm", EXPERIMENT.arms)
def test_every_arm_starts_at_the_interpolated_image_of_any_size(arm):
    low, told = torch.rand(2, 1, 9, 12), torch.randn(2, TOLD)
    restored = EXPERIMENT.arms[arm].network()(low, told)
    torch.testing.assert_close(restored, Bicubic()(low, told))


def test_trained_arms_have_about_as_many_parameters():
    counts = [sum(p.numel() for p in arm.network().parameters()) for arm in EXPERIMENT.arms.values()]
    assert counts.pop() == 0
    assert max(counts) < 1.03 * min(counts)


def awake(network):
    """A network whose last layer is not zero any more."""
    torch.nn.init.normal_(network.third.weight, std=0.1)
    return network


def test_a_told_network_is_for_each_image_an_srcnn_with_the_generated_filters():
    torch.manual_seed(0)
    hyper, plain = awake(ConditionedSRCNN((8, 4), 3)), SRCNN((8, 4))
    low, told = torch.rand(3, 1, 10, 12), torch.randn(3, 3)
    restored = hyper(low, told)
    plain.second, plain.third = hyper.second, hyper.third
    plain.first.bias = hyper.first.bias
    for number in range(3):
        plain.first.weight.data = hyper.first.generator(told[number])
        torch.testing.assert_close(plain(low[number : number + 1], told)[0], restored[number], atol=1e-5, rtol=1e-4)
    assert (hyper(low, told.roll(1, 0)) - restored).abs().max() > 0.01


def test_concatenated_coefficients_matter_and_those_of_a_blind_network_do_not():
    torch.manual_seed(0)
    low, told = torch.rand(3, 1, 10, 12), torch.randn(3, 3)
    for network, matter in ((awake(ConcatenatedSRCNN((8, 4), 3)), True), (awake(SRCNN((8, 4))), False)):
        assert (not torch.equal(network(low, told), network(low, told.roll(1, 0)))) == matter


def test_told_by_biases_is_told_by_planes_with_one_weight_for_all_taps_over_them():
    torch.manual_seed(0)
    planes, biases = awake(ConcatenatedSRCNN((8, 4), 3)), BiasedSRCNN((8, 4), 3)
    state = {name: tensor for name, tensor in planes.state_dict().items() if name != "first.weight"}
    over_image, over_planes = planes.first.weight.split([1, 3], dim=1)
    # planes are a ninth of what is told
    biases.load_state_dict({**state, "first.weight": over_image, "shifts.weight": over_planes.sum((2, 3)) / 9})
    low, told = torch.rand(3, 1, 10, 12), torch.randn(3, 3)
    torch.testing.assert_close(biases(low, told), planes(low, told), atol=1e-5, rtol=1e-4)


class Plus(torch.nn.Module):
    """The image as ``truths`` have it, and a little more."""

    def __init__(self, truths, error):
        super().__init__()
        self.truths = truths
        self.error = error

    def forward(self, seen, told):
        whole = next(each for each in self.truths if each.shape[1:] == tuple(2 * side for side in seen.shape[2:]))
        return whole[None] + self.error


def test_loss_psnr_and_ssim_of_known_errors_in_images_of_several_sizes():
    truths = [torch.full((1, 32, 40), 0.25), torch.full((1, 36, 30), 0.5)]
    batch = data.blurred(truths, data.blur_kernels().test[:2])
    measured = Measured(EXPERIMENT.objective)
    measured.update(EXPERIMENT.objective.score(Plus(truths, 0.1), batch, None), 2)
    figures = measured.figures()
    assert figures["loss"] == pytest.approx(0.01, rel=1e-5)
    assert figures["psnr"] == pytest.approx(20, rel=1e-5)
    similarity = [(2 * a * (a + 0.1) + 1e-4) / (a**2 + (a + 0.1) ** 2 + 1e-4) for a in (0.25, 0.5)]
    assert figures["ssim"] == pytest.approx(np.mean(similarity), rel=1e-4)


def test_the_border_does_not_count_and_psnr_is_a_mean_over_images():
    truth = torch.full((2, 1, 28, 28), 0.5)
    error = torch.zeros(2, 1, 28, 28)
    error[..., :2, :] = error[..., -2:] = 0.4
    error[0, :, 2:-2, 2:-2], error[1, :, 2:-2, 2:-2] = 0.1, 0.01

    class Wrong(torch.nn.Module):
        def forward(self, seen, told):
            return truth + error

    measured = Measured(EXPERIMENT.objective)
    measured.update(EXPERIMENT.objective.score(Wrong(), data.blurred(truth, data.blur_kernels().test[:2]), None), 2)
    assert measured.figures()["psnr"] == pytest.approx(30, rel=1e-4)


@pytest.fixture(scope="module")
def digits(digits_folder):
    return data.digits_to_blur(str(digits_folder))


def test_training_draws_training_kernels_and_one_arm_has_one(digits):
    kernels = data.blur_kernels().train
    taken = []

    class Listening(SRCNN):
        def forward(self, low, told):
            taken.append(told)
            return super().forward(low, told)

    class ListeningForOneKernel(Listening, superres.ForOneKernel):
        pass

    batch = digits.train[torch.arange(16)]
    for network in (Listening((4, 4)), ListeningForOneKernel((4, 4))):
        EXPERIMENT.objective.score(network, batch, torch.Generator().manual_seed(0))
    distances = torch.cdist(taken[0], data.coefficients(kernels))
    assert distances.min(dim=1).values.max() < 1e-2
    assert len(distances.argmin(dim=1).unique()) > 10
    torch.testing.assert_close(taken[1], data.coefficients(data.middle_kernel()[None]).expand(16, -1))


def test_held_out_digits_come_with_kernels_of_their_split(digits):
    for split, kernels in zip(("validation", "test"), data.blur_kernels()[1:], strict=True):
        batch = getattr(digits, split)[torch.arange(12)]
        assert torch.equal(batch.kernels, kernels[torch.arange(12) % data.HELD_OUT])
        torch.testing.assert_close(batch.seen, data.blurred_and_halved(as_float(batch.truths), batch.kernels))


def images_of(tmp_path, **changes):
    pytest.importorskip("skimage")
    return data.natural_images(str(write_images(tmp_path, **changes)))


def test_every_test_image_is_seen_through_every_kernel(tmp_path):
    splits = images_of(tmp_path)
    assert splits.name == "set5"
    assert splits.train[:2][0].shape == (2, 1, data.PATCH, data.PATCH)
    assert len(splits.validation) == 3 * data.HELD_OUT
    truths, seen, _, kernels, sets = splits.test[torch.arange(len(splits.test))]
    assert len(truths) == 2 * data.HELD_OUT
    assert {(image.shape, half.shape) for image, half in zip(truths, seen, strict=True)} == {
        ((1, 64, 48), (1, 32, 24)),
        ((1, 52, 60), (1, 26, 30)),
    }
    assert torch.equal(kernels, data.blur_kernels().test.repeat(2, 1, 1))
    assert set(sets) == {"Set5"}


def test_training_patches_are_of_many_images_and_none_of_validation(tmp_path):
    splits = images_of(tmp_path)
    patches = splits.train[:][0]
    assert len(patches.flatten(1).unique(dim=0)) > 0.99 * len(patches)
    corners = {tuple(patch[0, :2, :24].flatten().tolist()) for patch in patches}
    for image in splits.validation[torch.arange(0, len(splits.validation), data.HELD_OUT)].truths:
        windows = image[0].unfold(0, 2, 1).unfold(1, 24, 1).flatten(0, 1).flatten(1)
        assert not corners & set(map(tuple, windows.tolist()))


def test_of_colours_there_is_the_luma(tmp_path):
    from skimage.io import imsave

    pytest.importorskip("skimage")
    for name, colour in (("red", (255, 0, 0)), ("white", (255, 255, 255, 9)), ("grey", None)):
        image = np.full((50, 50), 99) if colour is None else np.broadcast_to(colour, (50, 50, len(colour)))
        imsave(tmp_path / f"{name}.png", image.astype(np.uint8), check_contrast=False)
    truths = data.natural_images(str(tmp_path)).test[torch.tensor([0, 10, 20])].truths
    assert [image.unique().tolist() for image in truths] == [[99], [81], [235]]


@pytest.mark.parametrize("size", [1, 3, 20])
def test_figures_are_those_of_all_images_whatever_the_batches(tmp_path, size):
    experiment, splits = experiments()["superres-natural"], images_of(tmp_path)
    torch.manual_seed(0)
    network = awake(ConditionedSRCNN((8, 4), TOLD)).eval()
    measured = [Measured(experiment.objective) for _ in range(2)]
    with torch.no_grad():
        for each, of in zip(measured, (size, 7), strict=True):
            for batch in batch_loader(splits.test, of):
                each.update(experiment.objective.score(network, batch, None), experiment.objective.samples(batch))
    assert measured[0].figures() == pytest.approx(measured[1].figures(), rel=1e-4)


def test_sets_are_measured_apart_where_there_are_several(tmp_path):
    write_images(tmp_path, "Set14", sizes=[(56, 56)])
    experiment, splits = experiments()["superres-natural"], images_of(tmp_path)
    assert splits.name == "set14-set5"
    figures = {(figure.metric, figure.at): figure.value for figure in experiment.measure(Bicubic(), splits)}
    both = Measured(experiment.objective)
    for batch in batch_loader(splits.test, 30):
        both.update(experiment.objective.score(Bicubic(), batch, None), 30)
    expected = both.figures()["psnr"]
    assert (figures["PSNR", "Set14"] + 2 * figures["PSNR", "Set5"]) / 3 == pytest.approx(expected, rel=1e-5)
    assert figures["PSNR", "told another kernel"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: folder / "none", "there is no folder"),
        (lambda folder: folder, "hold no images"),
        (
            lambda folder: write_images(folder, sizes=[(64, 64), (47, 64)]),
            "1.png is 64x47 pixels, smaller than a patch",
        ),
        (lambda folder: write_images(folder, sizes=[(64, 64, 2)]), "no image of one, three or four channels"),
    ],
)
def test_unusable_folders(tmp_path, prepare, said):
    pytest.importorskip("skimage")
    with pytest.raises(InputError, match=said):
        data.natural_images(str(prepare(tmp_path)))


def test_a_damaged_image_ends_the_run_with_one_line_and_nothing_on_disk(capsys, tmp_path):
    pytest.importorskip("skimage")
    folder = write_images(tmp_path / "images")
    whole = (folder / "Set5" / "0.png").read_bytes()
    (folder / "Set5" / "0.png").write_bytes(whole[: len(whole) // 2])
    places = "--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out")
    code, _, err = run(capsys, "--experiment", "superres-natural", "--data", str(folder), *places)
    assert code == 2
    assert err.startswith("error: ")
    assert "0.png cannot be read as an image" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "logs").exists() or not list((tmp_path / "logs").rglob("*.*"))


@pytest.fixture(scope="module")
def learned(digits):
    """A small told network after a few steps."""
    torch.manual_seed(0)
    network = ConditionedSRCNN((8, 8), TOLD)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        batch = digits.train[torch.randint(len(digits.train), (16,), generator=draws)]
        EXPERIMENT.objective.score(network, batch, draws)["loss"].backward()
        optimizer.step()
    return network.eval()


def test_a_told_network_learns_and_a_wrong_kernel_hurts_it(learned, digits):
    def psnr(network):
        measured = Measured(EXPERIMENT.objective)
        with torch.no_grad():
            for batch in batch_loader(digits.test, 20):
                measured.update(EXPERIMENT.objective.score(network, batch, None), len(batch.truths))
        return measured.figures()["psnr"]

    figures = {(figure.metric, figure.at): figure.value for figure in EXPERIMENT.measure(learned, digits)}
    assert psnr(learned) > psnr(Bicubic()) + 0.5
    assert figures["PSNR", "told another kernel"] < psnr(learned) - 0.1
    assert figures["SSIM", "the kernel of one-kernel"] > 0.5


def test_images_kernels_and_generated_filters_are_drawn(learned, digits):
    figure = EXPERIMENT.figure({"hyper": learned, "bicubic": Bicubic()}, digits)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["blur kernel", "seen", "hyper", "bicubic", "truth"]
    truth = next(axis for axis in figure.axes if axis.get_title() == "truth").images[0].get_array()
    np.testing.assert_allclose(truth, digits.test[torch.tensor([0])].truths[0, 0] / 255, atol=1e-6)
    filters = [axis.images[0].get_array() for axis in figure.axes if axis.images[0].get_array().shape == (9, 9)]
    generated = learned.first.generator(data.coefficients(data.blur_kernels().test[:1])).detach()[0, :, 0]
    assert all(min(np.abs(each - other).max() for other in generated.numpy()) < 1e-6 for each in filters[:8])
    assert len(filters) == 3 * 8
    plt.close(figure)

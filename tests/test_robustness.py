from dataclasses import replace

import pytest
import torch
from torch import nn

from hyperconv.data import load_digits
from hyperconv.data.noise import NOISES
from hyperconv.data.spoilt import CORRUPTIONS, LEVELS, corrupted, under_every_noise
from hyperconv.experiments import robustness
from hyperconv.experiments.asked import Asked
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.frontier import FrontierOptions, few_digits
from hyperconv.experiments.noise import median_filtered
from hyperconv.experiments.run import prepared
from hyperconv.experiments.settings import Run


def test_every_digit_is_under_every_noise_at_levels_in_turn(digits_folder):
    clean = load_digits(str(digits_folder)).test
    noisy, labels, kinds, originals = under_every_noise(clean, 0)[:]
    images, right = clean[torch.arange(len(clean))]
    for kind in range(len(NOISES)):
        assert torch.equal(labels[kinds == kind], right)
        assert torch.equal(originals[kinds == kind], images)
        change = (noisy[kinds == kind].float() - images.float()).abs().mean((1, 2, 3))
        assert change[::LEVELS].max() == 0
        assert change[LEVELS - 1 :: LEVELS].mean() > change[1::LEVELS].mean()
    assert len(labels) == len(NOISES) * len(clean)
    assert torch.equal(noisy, under_every_noise(clean, 0)[:][0])
    assert not torch.equal(noisy, under_every_noise(clean, 1)[:][0])


def test_corruptions_change_every_digit_and_are_the_same_again(digits_folder):
    images, _ = load_digits(str(digits_folder)).test[torch.arange(20)]
    for name in CORRUPTIONS:
        spoilt = corrupted(images, name, 0)
        assert spoilt.shape == images.shape and spoilt.dtype == torch.uint8
        assert torch.equal(spoilt, corrupted(images, name, 0)), name
        assert (spoilt != images).flatten(1).any(1).all(), name


def test_high_frequencies_are_told_from_low_ones():
    torch.manual_seed(0)
    kernel = torch.randn(3, 2, 5, 7)
    energy = torch.fft.fft2(kernel, (2050, 2050)).abs().square().sum((0, 1))
    high = torch.fft.fftfreq(2050).abs() > 0.25
    share = energy[high | high.unsqueeze(1)].sum() / energy.sum()
    assert robustness.high_frequencies(kernel) == pytest.approx(share.item(), abs=1e-3)
    assert abs(robustness.high_frequencies(torch.randn(64, 64, 5, 5)) - 0.75) < 0.02


def test_a_smoothed_kernel_has_the_share_that_is_asked_for_and_its_energy():
    torch.manual_seed(0)
    kernel = torch.randn(8, 8, 5, 5)
    smooth = robustness.smooth_kernel(kernel, 0.5)
    assert abs(robustness.high_frequencies(smooth) - 0.5) < 1e-3
    torch.testing.assert_close(smooth.norm(), kernel.norm())
    assert robustness.smooth_kernel(smooth, 0.6) is smooth


def test_only_networks_that_are_to_see_noise_see_it_and_only_in_training():
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (16, 1, 28, 28), dtype=torch.uint8), torch.zeros(16, dtype=torch.int64)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    noisy = robustness.TrainedOnNoise(plain)

    def loss(network, training):
        draws = torch.Generator().manual_seed(1) if training else None
        return robustness.classification(network, (images, labels), draws)["loss"]

    assert torch.equal(loss(plain, False), loss(noisy, False))
    assert not torch.equal(loss(plain, True), loss(noisy, True))


@torch.no_grad()
def test_accuracies_are_told_by_the_noise_that_they_are_under(digits_folder):
    splits = robustness.noisy_digits(str(digits_folder))
    noisy, labels, kinds, clean = splits.test[:]

    class Reads(nn.Module):
        """Knows an image that it has seen, and under which noise."""

        def __init__(self, kind):
            super().__init__()
            chosen = clean[kinds == 0] if kind == "clean" else noisy[kinds == kind]
            self.known = {image.numpy().tobytes(): int(label) for image, label in zip(chosen, labels, strict=False)}

        def forward(self, images):
            keys = [(image * 255).round().to(torch.uint8).numpy().tobytes() for image in images]
            answers = torch.tensor([self.known.get(key, -1) for key in keys])
            return torch.nn.functional.one_hot(answers + 1, 11)[:, 1:]

    for kind, name in (("clean", "clean"), *enumerate(NOISES)):
        views = robustness.spoilt(splits)
        right = {each: robustness.accuracy(Reads(kind), *view) for each, view in views.items()}
        assert right[name] == 1
        assert all(value < 0.5 for each, value in right.items() if each != name), right


@torch.no_grad()
def test_what_is_measured_has_filters_corruptions_spectra_and_for_stored_kernels_smoothing(digits_folder):
    splits = robustness.noisy_digits(str(digits_folder))
    arms = experiments()["robustness"].arms
    torch.manual_seed(0)
    normal, hyper = (arms[arm].network().eval() for arm in ("normal", "hyper"))
    of_normal, of_hyper = (
        {(f.metric, f.at): f.value for f in robustness.figures_of_spoilt(n, splits)} for n in (normal, hyper)
    )
    views = robustness.spoilt(splits)
    filtered = robustness.accuracy(median_filtered(normal), *views["gaussian"])
    assert of_normal["accuracy", f"gaussian, {robustness.MEDIAN}"] == filtered
    ways = {at for metric, at in of_hyper if metric == "accuracy"}
    assert ways == {f"{name}{way}" for name in views for way in ("", f", {robustness.MEDIAN}")}
    assert len([at for metric, at in of_hyper if metric == robustness.HIGH_FREQUENCIES and at]) == 16
    smoothed = {at for _, at in of_normal.keys() - of_hyper.keys()}
    names = ("clean", *NOISES)
    assert smoothed == {f"{name}, smoothed to {share:g}" for name in names for share in robustness.SHARES}


def test_smoothing_leaves_the_network_and_takes_statistics_anew(digits_folder):
    splits = robustness.noisy_digits(str(digits_folder))
    network = experiments()["robustness"].arms["normal"].network().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        smooth = robustness.smoothed(network, 0.2, splits)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    shares = [robustness.high_frequencies(layer.weight) for layer in robustness.spatial_layers(smooth)]
    assert max(shares) < 0.21 and len(shares) == 16
    name = next(name for name in before if name.endswith("running_var"))
    assert not torch.equal(smooth.state_dict()[name], before[name])


def test_few_digits_are_others_in_each_draw_and_as_many_as_asked_for(digits_folder):
    draws = [few_digits(str(digits_folder), fold, few=100).train for fold in range(2)]
    seen = [draw.images.flatten(1).unique(dim=0) for draw in draws]
    assert [len(each) for each in seen] == [100, 100]
    assert not torch.equal(*seen)
    assert all(len(draw) == 120 * 64 for draw in draws)


def test_every_draw_of_few_digits_begins_with_other_weights(digits_folder, tmp_path):
    settings = Run(experiment="frontier", arms=("normal-3x3-width-4",), data=str(digits_folder))
    asked = Asked(settings, FrontierOptions(few=100))

    def first_weights(fold, experiment=asked.experiment):
        training = asked.training("normal-3x3-width-4", 0, fold)._replace(experiment=experiment)
        learner, _ = prepared(training, tmp_path)
        return next(learner.network.parameters())

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(0), first_weights(1))
    alike = replace(asked.experiment, begun_by_fold=False)
    assert torch.equal(first_weights(0, alike), first_weights(1, alike))

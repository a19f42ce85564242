import math
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d
from torch.utils.data import TensorDataset

from hyperconv.data import batch_loader, load_digits, turned_digits
from hyperconv.data.moving_digits import MovingDigits, moving_digits, trajectories
from hyperconv.experiments import dynamic_filters
from hyperconv.experiments.dynamic_filters import DFN, FORECAST, STEERABLE, Options
from hyperconv.training.learner import Learner
from hyperconv.training.objectives import LOSS, Measured
from hyperconv.zoo.dynamic_filter_network import (
    ConvLSTM,
    FilterAClipNetwork,
    LocalFilterNetwork,
    Persistence,
    SteeredFilter,
    UnfilteredNetwork,
)

SPLITS = ("train", "validation", "test")


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_network_has_its_parameters_and_the_others_about_as_many():
    arms = DFN.with_options(Options(paper_size=True)).arms
    assert parameters(arms["hyper"].network()) == 637_361
    for experiment in (DFN, DFN.with_options(Options(paper_size=True))):
        counts = {name: parameters(arm.network()) for name, arm in experiment.arms.items()}
        assert counts.pop("persistence") == 0
        assert max(counts.values()) < 1.01 * min(counts.values())


def test_paper_size_networks_are_trained_a_step(digits_folder):
    torch.manual_seed(0)
    experiment = DFN.with_options(Options(paper_size=True))
    splits = experiment.load(str(digits_folder))
    seen, following = batch = splits.train[:1]
    assert (seen.shape, following.shape) == ((1, 10, 64, 64), (1, 10, 64, 64))
    for name in ("hyper", "normal", "convlstm"):
        learner = Learner(experiment.arms[name].network(), experiment.objective, experiment.recipe_of(name), {})
        optimizer = torch.optim.Adam(learner.parameters(), 1e-4)
        losses = []
        for _ in range(2):
            loss = experiment.objective.score(learner, batch, torch.Generator())[LOSS]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0], name


def test_digits_move_evenly_and_bounce_off_the_edges():
    places = trajectories((500,), 20, 1000, torch.Generator().manual_seed(0))
    assert places.min() >= 0
    assert places.max() <= 1000
    steps = places.diff(dim=1).double()
    signs = steps.sign()
    whole = ((signs[:, :-2] == signs[:, 1:-1]) & (signs[:, 1:-1] == signs[:, 2:])).all(2)
    lengths = steps[:, 1:-1].square().sum(2).sqrt()[whole]
    assert lengths.sub(100).abs().max() < 2
    assert whole.float().mean() > 0.4
    turned = (steps[:, :-1].sign() * steps[:, 1:].sign() < 0).nonzero()
    assert len(turned) > 100
    for clip, step, axis in turned.tolist():
        edge = places[clip, step + 1, axis]
        assert min(edge, 1000 - edge) <= 100


def test_a_clip_shows_its_digits_where_they_are_the_brightest_on_top():
    draws = torch.Generator().manual_seed(0)
    digits = torch.randint(1, 256, (7, 28, 28), generator=draws, dtype=torch.uint8)
    clips = MovingDigits(digits, 3, seen=2, predicted=3, side=64, seed=0)
    seen, following = clips[torch.tensor([2, 0])]
    assert (seen.dtype, seen.shape, following.shape) == (torch.uint8, (2, 2, 64, 64), (2, 3, 64, 64))
    for frames, index in zip(torch.cat([seen, following], dim=1).numpy(), (2, 0), strict=True):
        for time, frame in enumerate(frames):
            expected = np.zeros((64, 64), np.uint8)
            for image, (row, column) in zip(clips.images[index], clips.places[index][:, time], strict=True):
                part = expected[row : row + 28, column : column + 28]
                np.maximum(part, image, out=part)
            assert np.array_equal(frame, expected)
    single = clips[1]
    assert torch.equal(single[0], clips[1:2][0][0])


def test_small_digits_are_means_of_the_large_ones():
    digits = torch.arange(28 * 28).view(1, 28, 28).div(4).to(torch.uint8)
    small = MovingDigits(digits, 1, seen=1, predicted=1, side=32, seed=0).images[0, 0]
    means = digits[0].float().view(14, 2, 14, 2).mean((1, 3))
    assert small.shape == (14, 14)
    assert (small - means).abs().max() <= 0.5


def test_no_digit_or_trajectory_is_in_two_splits_and_held_out_clips_are_fixed(digits_folder):
    clips, again = (moving_digits(str(digits_folder), side=64) for _ in range(2))
    digits = load_digits(str(digits_folder))
    for split in SPLITS:
        own = {image.numpy().tobytes() for image in getattr(digits, split).images}
        shown = {image.numpy().tobytes() for image in getattr(clips, split).images.flatten(0, 1)}
        assert shown <= own
        assert all(map(torch.equal, getattr(clips, split)[:3], getattr(again, split)[:3]))
    starts = [{tuple(each.flatten().tolist()) for each in getattr(clips, split).places} for split in SPLITS]
    assert not starts[0] & starts[1]
    assert not (starts[0] | starts[1]) & starts[2]


@torch.no_grad()
def test_every_pixel_is_filtered_by_its_own_filter_and_the_prediction_is_seen_next():
    torch.manual_seed(0)
    network = LocalFilterNetwork(predicted=2, width=2, size=3).double()
    frames = torch.rand(2, 3, 8, 8, dtype=torch.double)
    predicted = network(frames)
    state, last = network.remembered(frames), frames[:, -1]
    for number in range(2):
        filters = network.decoder(state).softmax(1)
        padded = torch.nn.functional.pad(last, (1, 1, 1, 1))
        expected = sum(
            filters[:, 3 * row + column] * padded[:, row : row + 8, column : column + 8]
            for row in range(3)
            for column in range(3)
        )
        torch.testing.assert_close(predicted[:, number], expected)
        last = predicted[:, number]
        state = network.encoder(last.unsqueeze(1)) + network.recurrence(state)


@torch.no_grad()
def test_one_filter_moves_the_whole_clip():
    torch.manual_seed(0)
    network = FilterAClipNetwork(predicted=1, width=2)
    frames = torch.zeros(2, 2, 16, 16)
    frames[:, :, 5, 5] = 1
    frames[:, :, 11, 10] = 1
    predicted = network(frames)[:, 0]
    torch.testing.assert_close(predicted[:, 4:7, 4:7], predicted[:, 10:13, 9:12])


def test_persistence_predicts_the_last_frame():
    frames = torch.rand(2, 4, 16, 16)
    assert torch.equal(Persistence(3)(frames), frames[:, -1:].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("make", (LocalFilterNetwork, FilterAClipNetwork, UnfilteredNetwork, ConvLSTM))
def test_networks_remember_more_than_the_last_frame(make):
    torch.manual_seed(0)
    network = make(1, 4)
    frames = torch.rand(2, 3, 16, 16)
    other = torch.cat([frames[:, :1].roll(3, dims=3), frames[:, 1:]], dim=1)
    assert not torch.allclose(network(frames), network(other), atol=1e-6)


def similarity(first, second):
    """Wang et al., IEEE Transactions on Image Processing 2004, over the whole image, which is mirrored at its edges."""
    blurred = partial(gaussian_filter, sigma=1.5, truncate=3.5, mode="mirror")
    means = blurred(first), blurred(second)
    variances = (blurred(image**2) - mean**2 for image, mean in zip((first, second), means, strict=True))
    covariance = blurred(first * second) - means[0] * means[1]
    likeness = (2 * means[0] * means[1] + 0.01**2) * (2 * covariance + 0.03**2)
    return np.mean(likeness / ((means[0] ** 2 + means[1] ** 2 + 0.01**2) * (sum(variances) + 0.03**2)))


def test_errors_are_those_of_other_packages():
    torch.manual_seed(0)
    predicted, true = torch.rand(3, 4, 16, 16), torch.rand(3, 4, 16, 16)
    predicted[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    true[0, 0, 0, :2] = torch.tensor([1.0, 0.0])
    measured = Measured(FORECAST)
    for part in (slice(0, 1), slice(1, 3)):
        values = dynamic_filters.errors(predicted[part], true[part])
        measured.update(values, len(predicted[part]))
    figures = measured.figures()
    sure = predicted.double().clamp(np.finfo(np.float32).eps, 1 - np.finfo(np.float32).eps)
    entropy = torch.nn.functional.binary_cross_entropy(sure, true.double(), reduction="sum").item() / 12
    assert figures["bce"] == pytest.approx(entropy, rel=1e-5)
    assert figures[LOSS] == pytest.approx(entropy, rel=1e-5)
    assert figures["mse"] == pytest.approx((predicted - true).square().mean().item(), rel=1e-5)
    similar = [
        similarity(*pair)
        for pair in zip(predicted.flatten(0, 1).double().numpy(), true.flatten(0, 1).double().numpy(), strict=True)
    ]
    assert figures["ssim"] == pytest.approx(np.mean(similar), rel=1e-3)


def test_figures_of_frames_have_the_clips_as_their_mean(digits_folder):
    torch.manual_seed(0)
    splits = moving_digits(str(digits_folder))
    splits = replace(splits, test=TensorDataset(*splits.test[:7]))
    network = UnfilteredNetwork(5, 2).eval()
    figures = dynamic_filters.figures_by_frame(network, splits)
    measured = Measured(FORECAST)
    with torch.no_grad():
        for batch in batch_loader(splits.test, 3):
            measured.update(FORECAST.score(network, batch, None), len(batch[0]))
    for metric in FORECAST.metrics:
        of_frames = [figure.value for figure in figures if figure.metric == metric.name]
        assert len(of_frames) == 5
        assert np.mean(of_frames) == pytest.approx(measured.figures()[metric.column], rel=1e-4)


def test_a_few_steps_of_local_filtering_are_better_than_nothing_moving(digits_folder):
    torch.manual_seed(0)
    splits = moving_digits(str(digits_folder))
    network = LocalFilterNetwork(5, 4, 5)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for first in range(0, 400, 16):
        optimizer.zero_grad()
        FORECAST.score(network, splits.train[first : first + 16], None)[LOSS].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimizer.step()
    held_out = splits.validation[:32]
    with torch.no_grad():
        losses = [FORECAST.score(each, held_out, None)[LOSS].item() for each in (network, Persistence(5))]
    assert losses[0] < 0.7 * losses[1]


def test_true_filters_are_derivatives_of_a_gaussian():
    torch.manual_seed(0)
    images, angles = torch.rand(3, 1, 28, 28, dtype=torch.double), torch.tensor([0.0, math.pi / 2, 2.0]).double()
    found = dynamic_filters.derivatives(images.float(), angles.float())[:, 0]
    for image, angle, derivative, filter in zip(
        images[:, 0].numpy(), angles.numpy(), found, dynamic_filters.derivative_filters(angles), strict=True
    ):
        smooth = [gaussian_filter(image, 1.0, order, mode="constant", truncate=4) for order in ((0, 1), (1, 0))]
        expected = np.cos(angle) * smooth[0] + np.sin(angle) * smooth[1]
        np.testing.assert_allclose(derivative, expected, atol=5e-3)
        np.testing.assert_allclose(derivative, correlate2d(image, filter.numpy(), "same"), atol=1e-5)


def test_a_steered_filter_learns_the_true_ones(digits_folder):
    torch.manual_seed(0)
    splits = turned_digits(str(digits_folder))
    network = SteeredFilter()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        STEERABLE.objective.score(network, splits.train[:64], draws)[LOSS].backward()
        optimizer.step()
    figures = {(figure.metric, figure.at): figure.value for figure in dynamic_filters.filter_figures(network, splits)}
    with torch.no_grad():
        error = STEERABLE.objective.score(network, splits.test[:], None)[LOSS].item()
    assert error < 0.1 * figures["MSE", "predicting 0"]


def test_a_steered_filter_is_what_the_network_filters_with():
    torch.manual_seed(0)
    network = SteeredFilter(size=3)
    image, angles = torch.rand(1, 1, 6, 6), torch.tensor([1.0, 5.0])
    for filter, output in zip(network.filters(angles), network(image.expand(2, 1, 6, 6), angles), strict=True):
        expected = correlate2d(image[0, 0].numpy(), filter.detach().numpy(), "same")
        np.testing.assert_allclose(output[0].detach(), expected, atol=1e-5)


def test_a_clip_is_drawn_with_the_filters_of_marked_pixels(digits_folder):
    torch.manual_seed(0)
    splits = moving_digits(str(digits_folder))
    networks = {name: arm.network().eval() for name, arm in DFN.arms.items()}
    figure = DFN.figure(networks, splits)
    frames = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    seen, following = splits.test[:1]
    for drawn_frame, frame in zip(frames, torch.cat([seen, following], dim=1)[0], strict=False):
        np.testing.assert_allclose(drawn_frame, frame / 255, atol=1e-6)
    with torch.no_grad():
        network = networks["hyper"]
        filters = network.filters(network.remembered(seen / 255))[0]
    pixels = dynamic_filters.brightest(following[0, 0] / 255, 4, 6)
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.get_title() == "its filter"]
    for own, (row, column) in zip(shown, pixels, strict=True):
        np.testing.assert_allclose(own.flatten(), filters[:, row, column], atol=1e-6)
    plt.close(figure)


def test_figures_are_drawn_of_any_arms(digits_folder):
    for experiment, arm in ((DFN, "persistence"), (STEERABLE, "normal")):
        splits = experiment.load(str(digits_folder))
        figure = experiment.figure({arm: experiment.arms[arm].network().eval()}, splits)
        assert figure.get_suptitle()
        plt.close(figure)

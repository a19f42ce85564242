import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("skimage", reason="needs the extra images: pip install hyperconv[images]")

from helpers import BRIGHTEST, run, told_apart
from torch import nn
from torch.utils.data import TensorDataset

from hyperconv.data import Splits, as_float, load_digits
from hyperconv.data.drifting_digits import PREDICTED, SEEN, one_motion, two_motions
from hyperconv.data.radar import radar_clips
from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.run import operations_a_sample
from hyperconv.experiments.weather import (
    TASKS,
    Task,
    WeatherOptions,
    figures_by_lead_time,
    inner,
    next_frame,
    turned,
)
from hyperconv.training.objectives import LOSS, Measured
from hyperconv.zoo.dynamic_convolutional_layer import DynamicConvolutionalLayer, PlainForecaster
from hyperconv.zoo.extrapolation import Extrapolation, Nowcast, Persistence, lucas_kanade, phase_correlation, tv_l1

WEATHER = experiments()["weather"]
TRAINING, TEST = "20160928", "20170509"


def texture(side: int = 64) -> torch.Tensor:
    """Smooth and without a repetition, 0 ... 1."""
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(noise, 7, 1, 3)[0, 0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def moving(down: int, right: int, frames: int, side: int = 48) -> torch.Tensor:
    """``(1, frames, side, side)``: a window onto a texture that moves so many pixels a frame."""
    plane = texture(2 * side)
    corner = side // 2
    return torch.stack(
        [
            plane[corner - down * t : corner - down * t + side, corner - right * t : corner - right * t + side]
            for t in range(frames)
        ]
    )[None]


def write_radar(folder, frames: int = 22, **changes):
    """Rain that drifts over 128x128 pixels, two events; ``changes`` are arrays by name."""
    arrays = {}
    for event, start in ((TRAINING, 14 * 60 + 45), (TEST, 10 * 60 + 45)):
        codes = (60 + 80 * texture(128)).to(torch.uint8).numpy()
        arrays[f"frames_{event}"] = np.stack([np.roll(codes, t, axis=1) for t in range(frames)])
        minutes = [start + 5 * t for t in range(frames)]
        arrays[f"times_{event}"] = np.array([f"{event}{m // 60:02}{m % 60:02}" for m in minutes])
    folder.mkdir(exist_ok=True)
    np.savez(folder / "fmi_256.npz", **{**arrays, **changes})
    return folder


@pytest.fixture(scope="module")
def clips(digits_folder):
    return one_motion(str(digits_folder))


def test_each_sample_is_convolved_with_its_own_vertical_then_horizontal_kernel():
    torch.manual_seed(0)
    network = DynamicConvolutionalLayer(frames=4, reach=3)
    frames = torch.rand(5, 4, 24, 20)
    vertical, horizontal = network.kernels(frames)
    assert vertical.shape == horizontal.shape == (5, 7)
    torch.testing.assert_close(vertical.sum(1), torch.ones(5))
    assert not torch.allclose(vertical[0], vertical[1], atol=1e-4)
    predicted = network(frames)
    for number in range(5):
        whole = torch.outer(vertical[number], horizontal[number])[None, None]
        padded = F.pad(frames[number : number + 1, -1:], [3] * 4, mode="replicate")
        torch.testing.assert_close(predicted[number : number + 1], F.conv2d(padded, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network", [DynamicConvolutionalLayer(4, 3), PlainForecaster(4, (4, 6))], ids=lambda each: type(each).__name__
)
def test_what_is_forecast_is_fed_back(network):
    torch.manual_seed(0)
    frames = torch.rand(2, 4, 16, 16)
    expected = frames
    for _ in range(3):
        expected = torch.cat([expected, network.next_frame(expected[:, -4:])], dim=1)
    torch.testing.assert_close(network(frames, steps=3), expected[:, 4:])


def test_plain_and_dynamic_networks_have_the_same_budget(clips):
    made = {arm: WEATHER.arms[arm].network() for arm in ("hyper", "normal")}
    parameters = {arm: sum(each.numel() for each in network.parameters()) for arm, network in made.items()}
    operations = {arm: operations_a_sample(each, WEATHER.objective, [clips.test[:4]]) for arm, each in made.items()}
    assert parameters["normal"] == pytest.approx(parameters["hyper"], rel=0.05)
    assert operations["normal"] == pytest.approx(operations["hyper"], rel=0.05)


def test_phase_correlation_finds_a_known_shift():
    seen = moving(3, -5, 4).numpy()[0]
    np.testing.assert_allclose(phase_correlation(seen[2], seen[3]).ravel(), [-3, 5], atol=0.1)


def test_pysteps_follows_what_moves_where_it_is_installed():
    pytest.importorskip("pysteps", reason="needs the extra nowcasts: pip install hyperconv[nowcasts]")
    frames = moving(1, -2, SEEN + 3, side=64)
    later = Nowcast()(frames[:, :SEEN], steps=3)
    inside = slice(12, -12)
    assert later.shape == (1, 3, 64, 64)
    error, still = (
        (each - frames[:, SEEN:])[..., inside, inside].square().mean().item()
        for each in (later, frames[:, SEEN - 1 : SEEN])
    )
    assert error < 0.1 * still
    assert (Nowcast()(torch.full((1, SEEN, 32, 32), 0.5), steps=2)[..., 4:-4, 4:-4] == 0.5).all()


@pytest.mark.parametrize("origins", [phase_correlation, tv_l1, lucas_kanade], ids=lambda each: each.__name__)
def test_motion_is_carried_on(origins):
    clip = moving(1, -2, 7)
    seen, true = clip[:, :4], clip[:, 4:]
    predicted = Extrapolation(origins)(seen, steps=3)
    error = (inner(predicted, 10) - inner(true, 10)).square().mean((0, 2, 3))
    stayed = (inner(Persistence()(seen, steps=3), 10) - inner(true, 10)).square().mean((0, 2, 3))
    assert (error < 0.1 * stayed).all()


@pytest.mark.parametrize("origins", [phase_correlation, tv_l1, lucas_kanade], ids=lambda each: each.__name__)
def test_frames_without_anything_in_them_stay_so(origins):
    assert torch.equal(Extrapolation(origins)(torch.zeros(2, 4, 32, 32), steps=2), torch.zeros(2, 2, 32, 32))


@pytest.mark.parametrize("make", [one_motion, two_motions])
def test_every_split_has_its_own_digits(digits_folder, monkeypatch, make):
    monkeypatch.setattr("hyperconv.data.drifting_digits.load_digits", lambda source: told_apart(load_digits(source)))
    clips = make(str(digits_folder))
    for split, most in BRIGHTEST.items():
        (frames,) = getattr(clips, split)[:50]
        # digits that overlap or lie between pixels are no brighter
        assert most - 8 <= frames.max() <= most, split


def test_clips_move_as_one(clips, digits_folder):
    (test,) = clips.test[:]
    assert test.shape == (400, SEEN + PREDICTED, 64, 64) and test.dtype == torch.uint8
    assert clips.train[:][0].shape == (4000, SEEN + 1, 64, 64)
    assert torch.equal(test, one_motion(str(digits_folder)).test[:][0])
    # where the motion found between two frames leads, the frame after them is
    frames = as_float(test[:40])
    predicted = Extrapolation(phase_correlation)(frames[:, :SEEN])
    error = (inner(predicted, 16) - inner(frames[:, SEEN : SEEN + 1], 16)).square().mean()
    stayed = inner(frames[:, SEEN - 1 : SEEN] - frames[:, SEEN : SEEN + 1], 16).square().mean()
    assert error < 0.2 * stayed


def test_two_digits_move_apart(digits_folder):
    (test,) = two_motions(str(digits_folder)).test[:50]
    frames = test.double()
    rows, columns = torch.meshgrid(*[torch.arange(64) - 31.5] * 2, indexing="ij")
    spread = (frames * (rows**2 + columns**2)).sum((2, 3)) / frames.sum((2, 3))
    assert (spread[:, 4] > spread[:, 0]).all()


def test_the_radar_split_is_by_event_and_time(tmp_path):
    splits = radar_clips(str(write_radar(tmp_path)))
    held = np.load(tmp_path / "fmi_256.npz")
    frames = {event: torch.from_numpy(held[f"frames_{event}"].clip(64) - np.uint8(64)) for event in (TRAINING, TEST)}
    train, validation, test = (getattr(splits, split)[:][0] for split in ("train", "validation", "test"))
    # of 22 frames: 6 trained on, 2 left out, 14 validated on; a window every 32 or 80 of 128 pixels
    assert train.shape == (2 * 4, 5, 96, 96)
    assert validation.shape == (5 * 4, 10, 96, 96)
    assert test.shape == (13 * 1, 10, 96, 96)
    assert torch.equal(train[1], frames[TRAINING][:5, :96, 32:])
    assert torch.equal(train[-1], frames[TRAINING][1:6, 32:, 32:])
    assert torch.equal(validation[0], frames[TRAINING][8:18, :96, :96])
    assert torch.equal(test[-1], frames[TEST][12:22, :96, :96])


def with_gap(times: np.ndarray) -> np.ndarray:
    return np.concatenate([times[:9], times[10:], [f"{TRAINING}1640"]])


def test_radar_that_cannot_be_used_is_told_in_a_line(tmp_path, capsys):
    def told(**changes) -> str:
        folder = tmp_path / "radar"
        write_radar(folder, **changes)
        flags = ("--experiment", "weather", "--clips", "radar", "--data", str(folder), "--out", str(tmp_path / "out"))
        code, _, err = run(capsys, *flags, "--logs", str(tmp_path / "logs"), "--accelerator", "cpu")
        assert code == 2
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "logs").exists()
        return err

    write_radar(tmp_path / "whole")
    whole = np.load(tmp_path / "whole" / "fmi_256.npz")
    frames, times = whole[f"frames_{TRAINING}"], whole[f"times_{TRAINING}"]
    gap = told(**{f"times_{TRAINING}": with_gap(times)})
    assert f"times_{TRAINING}" in gap and "goes from 15:25 to 15:35; frames must follow each other every 5 min" in gap
    assert "holds no times like 201609281445" in told(**{f"times_{TRAINING}": np.array(["noon"] * 22)})
    assert "a time for each" in told(**{f"times_{TRAINING}": times[:-1]})
    assert "21 frames or more are needed" in told(frames=20)
    assert "96x96 pixels or more" in told(**{f"frames_{TRAINING}": frames[:, :90]})
    blank = frames.copy()
    blank[3, 5, 5] = 255
    assert "pixels without data (code 255) at 201609281500" in told(**{f"frames_{TRAINING}": blank})
    assert "expected uint8" in told(**{f"frames_{TRAINING}": frames.astype(np.float32)})
    (tmp_path / "radar" / "fmi_256.npz").unlink()
    with pytest.raises(InputError, match=r"there is no .*fmi_256\.npz; give the folder"):
        radar_clips(str(tmp_path / "radar"))


class Always(nn.Module):
    """Forecasts the same frames, whatever it has seen."""

    def __init__(self, frames: torch.Tensor) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, seen: torch.Tensor, steps: int = 1) -> torch.Tensor:
        return self.frames[:steps].expand(len(seen), -1, -1, -1)


def test_figures_are_those_computed_by_hand():
    """Of frames of 5x5 pixels the inner 3x3 are scored; in dBZ, 40, 10 and 20 come, and 30, 25 and 20 are forecast."""
    task = Task(lambda source: None, "", 127.5, "dBZ", (20.0, 30.0), edge=1)
    clips = torch.zeros(2, SEEN + PREDICTED, 5, 5, dtype=torch.uint8)
    clips[:, SEEN, 1, 1:4] = torch.tensor([80, 20, 40], dtype=torch.uint8)
    clips[:, :, 0] = 200
    forecast = torch.zeros(PREDICTED, 5, 5)
    forecast[0, 1, 1:4] = torch.tensor([30.0, 25.0, 20.0]) / 127.5
    forecast[2, 3, 3] = 20 / 127.5
    data = TensorDataset(clips)
    found = {
        (each.metric, each.at): each.value
        for each in figures_by_lead_time(task, Always(forecast), Splits("", data, data, data, ""))
    }
    assert found["MSE", "5 minutes"] == pytest.approx((10**2 + 15**2) / 9)
    assert found["CSI at 20 dBZ", "5 minutes"] == pytest.approx(2 / 3)
    assert found["CSI at 30 dBZ", "5 minutes"] == 1
    assert found["MSE", "15 minutes"] == pytest.approx(20**2 / 9)
    assert found["CSI at 20 dBZ", "15 minutes"] == 0
    assert found["MSE", "30 minutes"] == 0
    upright = task._replace(turned=True)
    turning = torch.Generator().manual_seed(0)
    assert all(each.is_contiguous() for each in next_frame(upright, Persistence(), (clips,), turning)["mse"])
    scored = next_frame(task, Always(forecast), (clips,), None)
    measured = Measured(WEATHER.with_options(WeatherOptions("radar")).objective)
    measured.update(scored, len(clips))
    assert measured.figures()["mse"] == pytest.approx((10**2 + 15**2) / 9)
    assert scored[LOSS].item() == pytest.approx((10**2 + 15**2) / 9 / 127.5**2)


def test_clips_for_training_are_turned_whole():
    clips = moving(1, 0, 3, side=8)
    seen = {turned(clips, torch.Generator().manual_seed(seed)).numpy().tobytes() for seed in range(60)}
    assert len(seen) == 8
    assert all(np.frombuffer(each, np.float32).sum() == pytest.approx(clips.sum().item(), rel=1e-5) for each in seen)


@pytest.mark.parametrize("kind", list(TASKS))
def test_every_kind_of_clip_is_drawn_with_the_kernels_of_the_sample(kind, tmp_path, digits_folder):
    experiment = WEATHER.with_options(WeatherOptions(kind))
    source = write_radar(tmp_path) if kind == "radar" else digits_folder
    splits = experiment.load(str(source))
    (test,) = splits.test[:12]
    splits = Splits(splits.name, splits.train, splits.validation, TensorDataset(test), "")
    torch.manual_seed(0)
    networks = {arm: each.network().eval() for arm, each in experiment.arms.items()}
    figure = experiment.figure(networks, splits)
    brightest = test[:, SEEN - 1].float().mean((1, 2)).argmax()
    frames = TASKS[kind].largest * as_float(test[brightest])
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    for image, frame in zip(images[:SEEN], frames, strict=False):
        np.testing.assert_allclose(image, frame, rtol=1e-6)
    vertical, horizontal = networks["hyper"].kernels(as_float(test[brightest : brightest + 1, :SEEN]))
    product = torch.outer(vertical[0], horizontal[0]).flip(0, 1).detach()
    np.testing.assert_allclose(images[SEEN], product, rtol=1e-5)
    assert len(images) == SEEN + 1 + 3 * (1 + len(networks))
    for image, lead in zip(images[SEEN + 1 :], (1, 3, 6), strict=False):
        np.testing.assert_allclose(image, frames[SEEN - 1 + lead], rtol=1e-6)
    plt.close(figure)


def test_kernels_learn_to_follow_a_motion():
    """Textures that move by one of two motions: the network must see which one it is."""
    torch.manual_seed(1)
    clips = torch.cat([moving(2, 0, 5, side=32), moving(0, -3, 5, side=32)])
    network = DynamicConvolutionalLayer(4, 4, widths=(8, 16), hidden=16)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    task = TASKS["digits"]._replace(edge=6)
    for _ in range(300):
        optimizer.zero_grad()
        loss = next_frame(task, lambda seen: network(seen), ((255 * clips).to(torch.uint8),), torch.Generator())[LOSS]
        loss.backward()
        optimizer.step()
    vertical, horizontal = network.kernels(clips[:, :4])
    # a kernel's tap 4 + s brings what lies s pixels further on
    assert vertical.argmax(1).tolist() == [2, 4]
    assert horizontal.argmax(1).tolist() == [4, 7]


def test_arms_are_trained_evaluated_and_told_by_lead_time(tmp_path, capsys):
    folder = write_radar(tmp_path / "radar")
    flags = ("--experiment", "weather", "--clips", "radar", "--data", str(folder), "--epochs", "1", "--compile", "no")
    flags = (*flags, "--accelerator", "cpu", "--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "out"))
    code, _, err = run(capsys, *flags)
    assert code == 0, err
    rows = results.read(next((tmp_path / "logs").glob("*/results.csv")))
    of_test = {(row.arm, row.metric, row.at): row for row in rows if row.split == "test"}
    for arm in WEATHER.arms:
        assert {at for each, _, at in of_test if each == arm} == {"", "5 minutes", "15 minutes", "30 minutes"}
        alone, beside = of_test[arm, "MSE", ""], of_test[arm, "MSE", "5 minutes"]
        assert alone.value == pytest.approx(beside.value, rel=1e-4)
        assert (alone.parameters > 0) == (alone.epochs > 0) == (arm in ("hyper", "normal"))
    # rain that only drifts is followed best along its motion
    assert (
        of_test["phase-correlation", "MSE", "30 minutes"].value
        < 0.2 * of_test["persistence", "MSE", "30 minutes"].value
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weather-clips-radar-epochs1.png"]

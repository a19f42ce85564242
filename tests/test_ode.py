import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from hyperconv.data import as_float, pendulums
from hyperconv.errors import InputError
from hyperconv.experiments.ode import ODE, ODE_FRAMES, forecast_error, from_frames
from hyperconv.training.objectives import Measured
from hyperconv.zoo.neural_ode import GeneratedDynamics, LSTMForecaster, NeuralODE, StoredDynamics


def test_every_trajectory_follows_its_own_network():
    torch.manual_seed(0)
    model = NeuralODE(GeneratedDynamics(8, context_dim=3), observed=5, predicted=20, interval=0.1).double()
    observed = torch.randn(3, 5, 2, dtype=torch.double)
    for parameter in model.dynamics.parameters():
        parameter.data.mul_(2)
    with torch.no_grad():
        predicted = model(observed)
        encoded = model.encoder(observed)
        for own, numbers in zip(predicted, encoded, strict=True):
            weights = [
                (layer.generator(numbers[2:]).numpy(), layer.bias_generator(numbers[2:]).numpy())
                for layer in model.dynamics.layers
            ]

            def derivative(time, state, weights=weights):
                features = np.array([np.sin(state[0]), np.cos(state[0]), state[1]])
                (first, a), (second, b), (third, c) = weights
                return [state[1], *(third @ np.tanh(second @ np.tanh(first @ features + a) + b) + c)]

            angle = solve_ivp(derivative, (0, 1.9), numbers[:2], t_eval=np.arange(20) / 10, rtol=1e-10, atol=1e-10).y[0]
            expected = np.stack([np.sin(angle), -np.cos(angle)], axis=1)
            np.testing.assert_allclose(own, expected, atol=1e-5)
    assert (predicted[0] - predicted[1]).abs().max() > 0.1


@pytest.mark.parametrize("backend", ["grouped", "loop"])
def test_backends_agree(backend):
    model = NeuralODE(GeneratedDynamics(8, context_dim=3), observed=5, predicted=10)
    observed = torch.randn(4, 5, 2)
    expected = model(observed)
    model.dynamics.backend = backend
    torch.testing.assert_close(model(observed), expected, rtol=1e-4, atol=1e-5)


def test_a_context_reaches_stored_dynamics_only_where_there_is_one():
    features, contexts = torch.randn(4, 3), torch.randn(4, 2)
    conditioned = StoredDynamics(8, context_dim=2)
    assert not torch.equal(conditioned(contexts)(features), conditioned(-contexts)(features))
    assert StoredDynamics(8)(torch.empty(4, 0))(features).shape == (4, 1)


def test_the_lstm_lives_on_its_own_predictions_once_nothing_is_observed():
    torch.manual_seed(0)
    model = LSTMForecaster(8, predicted=9)
    observed = torch.randn(2, 4, 2)
    predicted = model(observed)
    assert torch.equal(predicted[:, 0], observed[:, 0])
    seen = torch.cat([observed, predicted[:, 4:8]], dim=1)
    torch.testing.assert_close(predicted[:, 1:], seen + model.step(model.lstm(seen)[0]))


def test_arms_have_about_equal_parameters():
    counts = [sum(parameter.numel() for parameter in arm.network().parameters()) for arm in ODE.arms.values()]
    assert max(counts) < 1.1 * min(counts)


def test_small_swings_are_those_of_the_damped_oscillator():
    length, damping, times = np.array([0.5, 2.0]), np.array([0.0, 0.4]), np.linspace(0, 6, 40)
    simulated = pendulums.simulate(length, damping, np.full(2, 1e-3), np.zeros(2), times)
    rate = np.sqrt(9.81 / length - damping**2 / 4)[:, None]
    decay = damping[:, None] / 2
    expected = 1e-3 * np.exp(-decay * times) * (np.cos(rate * times) + decay / rate * np.sin(rate * times))
    np.testing.assert_allclose(simulated, expected, atol=1e-8)


def test_splits_are_the_same_each_time_and_share_no_trajectory():
    first, again = pendulums.load_points(), pendulums.load_points()
    assert [len(split) for split in (first.train, first.validation, first.test)] == [2000, 500, 500]
    everything = torch.cat([split[:][1] for split in (first.train, first.validation, first.test)])
    assert len(everything.unique(dim=0)) == len(everything)
    observed, positions = first.test[:]
    assert torch.equal(observed, again.test[:][0])
    assert (observed - positions[:, : pendulums.OBSERVED]).std() == pytest.approx(0.02, rel=0.05)


def test_longer_forecasts_begin_as_those_of_training_do():
    torch.manual_seed(0)
    observed = pendulums.load_points().test[:3][0]
    for network in (ODE.arms[arm].network().eval() for arm in ODE.arms):
        with torch.no_grad():
            longer = network(observed, 60)
            torch.testing.assert_close(longer[:, : pendulums.PREDICTED], network(observed))
        assert longer.shape == (3, 60, 2)


def test_elsewhere_are_the_test_trajectories_for_longer_and_rods_that_training_has_not():
    found = pendulums.elsewhere()
    _, positions = pendulums.load_points().test[:]
    _, longer = found["6 to 12 s"]
    torch.testing.assert_close(longer[:, : pendulums.PREDICTED], positions, atol=1e-5, rtol=0)

    def turns(positions):
        """How often the angle's course turns, more often the shorter the rod."""
        steps = pendulums.angles(positions).diff(dim=1)
        return (steps[:, 1:] * steps[:, :-1] < 0).double().sum(1).mean()

    short, long = (found[name][1] for name in ("rods of 0.3 to 0.5 m", "rods of 2 to 3 m"))
    assert turns(short) > turns(positions) > turns(long)
    assert all(observed.shape == (500, pendulums.OBSERVED, 2) for observed, _ in found.values())


def test_frames_show_where_the_bob_is():
    splits = pendulums.load_frames()
    images, positions = splits.validation[:50]
    images = images.double()
    offsets = (torch.arange(28) - 13.5) / pendulums.ROD_PIXELS
    total = images.sum((-1, -2))
    right, up = (images.sum(-2) * offsets).sum(-1) / total, -(images.sum(-1) * offsets).sum(-1) / total
    expected = positions[:, : pendulums.OBSERVED].double()
    torch.testing.assert_close(torch.stack([right, up], dim=-1), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("experiment", [ODE, ODE_FRAMES], ids=lambda experiment: experiment.name)
def test_other_data_are_refused(experiment):
    with pytest.raises(InputError, match="--data elsewhere: pendulums are simulated"):
        experiment.load("elsewhere")


@pytest.mark.parametrize("experiment", [ODE, ODE_FRAMES], ids=lambda experiment: experiment.name)
def test_a_network_a_trajectory_learns_to_forecast(experiment):
    torch.manual_seed(0)
    splits = experiment.load("auto")
    (observed, positions), held_out = splits.train[:], splits.validation[:]
    model = NeuralODE(GeneratedDynamics(16, context_dim=4), observed=6, predicted=12)
    model = from_frames(lambda: model) if experiment is ODE_FRAMES else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch = torch.randint(len(observed), (100,), generator=draws)
        optimizer.zero_grad()
        forecast_error(model, (observed[batch, :6], positions[batch, :12]), draws)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    always_the_mean = held_out[1][:, 6:12] - positions[:, 6:12].mean(0)
    with torch.no_grad():
        learned = forecast_error(model, (held_out[0][:, :6], held_out[1][:, :12]), None)["rmse"][0].mean().sqrt()
    assert learned < 0.5 * always_the_mean.square().sum(-1).mean().sqrt()


@pytest.mark.parametrize("size", [1, 7, 10, 50, 120])
def test_extrapolation_error_is_that_of_all_trajectories_whatever_the_batches(size):
    observed, positions = (split[:120] for split in pendulums.load_points().validation[:])
    forecasts = positions + torch.randn(positions.shape, generator=torch.Generator().manual_seed(0)) * torch.arange(
        120.0
    ).view(-1, 1, 1)
    measured = Measured(ODE.objective)
    for batch in torch.arange(120).split(size):
        scored = ODE.objective.score(lambda _, batch=batch: forecasts[batch], (observed[batch], positions[batch]), None)
        measured.update(scored, len(batch))
    beyond = (forecasts - positions)[:, pendulums.OBSERVED :].square().sum(-1)
    assert measured.figures()["rmse"] == pytest.approx(beyond.mean().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("experiment", [ODE, ODE_FRAMES], ids=lambda experiment: experiment.name)
def test_each_arms_angles_are_drawn_over_the_true_ones_and_frames_below(experiment):
    splits = experiment.load("auto")
    networks = {arm: experiment.arms[arm].network().eval() for arm in ("hyper", "lstm")}
    figure = experiment.figure(networks, splits)
    observed, positions = splits.test[:4]
    pictured = [axis for axis in figure.axes if axis.images]
    assert len(pictured) == (4 if experiment is ODE_FRAMES else 0)
    panels = [axis for axis in figure.axes if not axis.images]
    for number, axis in enumerate(panels):
        drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
        np.testing.assert_allclose(drawn["true"], pendulums.angles(positions)[number], atol=1e-6)
        for arm, network in networks.items():
            with torch.no_grad():
                expected = pendulums.angles(network(as_float(observed)))[number]
            np.testing.assert_allclose(drawn[arm], expected, atol=1e-5)
    for axis, (number, frames) in zip(pictured, enumerate(pendulums.frames(positions)[:, 2::4]), strict=False):
        np.testing.assert_array_equal(axis.images[0].get_array(), np.concatenate(list(frames.numpy()), axis=1))
        assert [line.get_xdata().size for line in axis.lines[-2:]] == [10, 10], number
    plt.close(figure)

import math
from collections import Counter
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperconv.data import text as text_module
from hyperconv.data.text import as_text, load_text
from hyperconv.errors import InputError
from hyperconv.experiments.declared import experiments
from hyperconv.training.objectives import Measured
from hyperconv.zoo.hyper_lstm import LayerNormHyperLSTM, LayerNormLSTM, PlainLSTM

INPUTS, HIDDEN, HYPER, EMBEDDING = 5, 7, 6, 3
close = partial(torch.testing.assert_close, rtol=0, atol=1e-5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shaken(cell: nn.Module) -> nn.Module:
    """The cell with every parameter moved, so that none is left at a value that hides a mistake."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return cell


def normed(values: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * gain + bias


def updated(update: nn.Module, sums: list[torch.Tensor], cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gains, biases = update.norm.weight.chunk(4), update.norm.bias.chunk(4)
    i, f, o, g = (normed(*each) for each in zip(sums, gains, biases, strict=True))
    cell = cell * f.sigmoid() + i.sigmoid() * g.tanh()
    return o.sigmoid() * normed(cell, update.cell_norm.weight, update.cell_norm.bias).tanh(), cell


def states_by_the_equations(net: LayerNormHyperLSTM, input: torch.Tensor) -> torch.Tensor:
    h = c = torch.zeros(len(input), HIDDEN)
    small_h = small_c = torch.zeros(len(input), HYPER)
    states = []
    for x in input.unbind(1):
        seen = torch.cat([h, x], dim=1)
        weights = (net.hyper.from_input.weight, net.hyper.from_input.bias, net.hyper.from_state.weight)
        small_sums = [
            seen @ w_seen.T + b + small_h @ w_h.T
            for w_seen, b, w_h in zip(*(each.chunk(4) for each in weights), strict=True)
        ]
        small_h, small_c = updated(net.hyper.update, small_sums, small_c)
        sums = []
        for gate in range(4):
            z_h, z_x = (small_h @ net.embed[of, gate].T + net.embed_bias[of, gate].T for of in (0, 1))
            z_b = small_h @ net.embed[2, gate].T
            w_h, w_x, b = (each.chunk(4)[gate] for each in (net.from_state.weight, net.from_input.weight, net.bias))
            d_h, d_x, d_b = (z @ net.scale[of, gate].T for of, z in enumerate((z_h, z_x, z_b)))
            sums.append(d_h * (h @ w_h.T) + d_x * (x @ w_x.T) + d_b + b)
        h, c = updated(net.update, sums, c)
        states.append(h)
    return torch.stack(states, dim=1)


def test_hyper_lstm_follows_the_papers_equations():
    net = shaken(LayerNormHyperLSTM(INPUTS, HIDDEN, HYPER, EMBEDDING))
    input = torch.randn(4, 6, INPUTS)
    close(net(input), states_by_the_equations(net, input))


def test_hyper_lstm_whose_scales_are_one_is_the_layer_norm_lstm():
    hyper, normal = LayerNormHyperLSTM(INPUTS, HIDDEN, HYPER, EMBEDDING), shaken(LayerNormLSTM(INPUTS, HIDDEN))
    input = torch.randn(4, 6, INPUTS)
    with torch.no_grad():
        hyper.scale[:2] = 1 / EMBEDDING
        hyper.from_input.weight.copy_(normal.from_input.weight)
        hyper.from_state.weight.copy_(normal.from_state.weight)
        hyper.bias.copy_(normal.from_input.bias)
    hyper.update.load_state_dict(normal.update.state_dict())
    close(hyper(input), normal(input))


def test_initial_values_are_the_papers():
    net = LayerNormHyperLSTM(INPUTS, 64, 32, EMBEDDING)
    _, scales = net.states_and_scales(torch.randn(4, 6, INPUTS))
    for scale in scales:
        close(scale[:, :2], torch.full((4, 2, 4, 64), 0.1))
        close(scale[:, 2], net.bias.view(4, 64).expand(4, -1, -1))
    assert net.embed[2].std().item() == pytest.approx(0.01, rel=0.2)
    for cell in (net.from_state.weight, net.hyper.from_state.weight, PlainLSTM(INPUTS, 64).weight_hh_l0):
        for gate in cell.chunk(4):
            close(gate @ gate.T, torch.eye(gate.shape[1]))
    i, f, o, g = net.update.norm.bias.chunk(4)
    assert (f == 1).all() and not torch.cat([i, o, g]).any()


@pytest.mark.parametrize("cell", [PlainLSTM, LayerNormLSTM, partial(LayerNormHyperLSTM, hyper_hidden=HYPER)])
def test_gradients_through_blank_inputs_stay_small(cell):
    net = cell(28, 64)
    net(torch.zeros(2, 28, 28))[:, -1].square().mean().backward()
    assert all(parameter.grad.norm() < 100 for parameter in net.parameters())


def test_dropout_is_of_training_only():
    net = LayerNormHyperLSTM(INPUTS, HIDDEN, HYPER, dropout=0.5)
    input = torch.randn(4, 6, INPUTS)
    assert not torch.equal(net(input), net(input))
    net.eval()
    assert torch.equal(net(input), net(input))


@pytest.mark.parametrize("name", ["hyperlstm", "hyperlstm-permuted", "hyperlstm-characters"])
def test_arms_have_equally_many_parameters(name):
    counts = [sum(p.numel() for p in arm.network().parameters()) for arm in experiments()[name].arms.values()]
    assert max(counts) < 1.03 * min(counts)


def test_permuted_rows_are_the_same_rows_in_another_order():
    rows = torch.arange(28.0).view(1, 1, 28, 1).expand(2, 1, 28, 28)
    seen = {}
    for name in ("hyperlstm", "hyperlstm-permuted"):

        def network(input, name=name):
            seen[name] = input
            return torch.zeros(2, 28, 10)

        experiments()[name].objective.score(network, (rows, torch.zeros(2, dtype=torch.long)), None)
    straight, permuted = seen.values()
    assert not torch.equal(straight, permuted)
    assert torch.equal(straight, permuted.sort(dim=1).values)


def test_bits_of_a_network_that_knows_nothing_are_those_of_its_alphabet_whatever_the_lengths_of_texts():
    objective = experiments()["hyperlstm-characters"].objective
    network = lambda input: torch.zeros(*input.shape, 128)  # noqa: E731
    assert of_texts(objective, network, load_text("auto").train[:3]) == pytest.approx(math.log2(128))
    # knows the second of two texts, which is three times as long
    sure = lambda input: 1e3 * F.one_hot(torch.full_like(input, 7), 128).float() * input[:1, :1, None].gt(0)  # noqa: E731
    short, long = torch.zeros(1, 11, dtype=torch.long), torch.full((1, 31), 7)
    assert of_texts(objective, sure, (short,), (long,)) == pytest.approx(math.log2(128) / 4)


def of_texts(objective, network, *batches) -> float:
    measured = Measured(objective)
    for batch in batches:
        measured.update(objective.score(network, batch, None), objective.samples(batch))
    return measured.figures()["bpc"]


@pytest.fixture
def text_file(tmp_path) -> Path:
    path = tmp_path / "Counting Song.txt"
    path.write_text("one two three four five six seven eight nine ten, caf\u00e9; " * 150)
    return path


def test_text_is_split_into_stretches_of_sequences_that_continue_one_another(text_file):
    splits = load_text(str(text_file))
    text = text_file.read_text().replace("\u00e9", "?")
    assert splits.name == "counting_song"
    assert "150 characters outside ASCII" in splits.note
    held_out = len(text) // 20
    starts = (0, len(text) - 2 * held_out, len(text) - held_out)
    for split, start, stop in zip(
        (splits.train, splits.validation, splits.test), starts, [*starts[1:], len(text)], strict=True
    ):
        (sequences,) = split[:]
        read = "".join(as_text(sequence[:-1]) for sequence in sequences) + as_text(sequences[-1, -1:])
        assert text[start:stop].startswith(read)
        assert stop - start - len(read) < 100


def test_text_of_python_itself_where_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "_LOCAL_FILE", tmp_path / "input.txt")
    splits = load_text("auto")
    assert splits.name == "python_help" and "Python's own help" in splits.note
    assert len(splits.train) > 2000
    (tmp_path / "input.txt").write_text("to be or not to be " * 200)
    assert load_text("auto").name == load_text(str(tmp_path)).name != "python_help"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"too short", "too few"),
        (b"\xff\xfe" * 5000, "no UTF-8"),
        (b"\xd0\xb6" * 5000, "not ASCII"),
    ],
)
def test_unusable_text_is_refused_in_words(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_text(str(path))


def learn(experiment, network, samples, steps: int, batch_size: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(samples), (batch_size,), generator=draws)
        optimizer.zero_grad()
        experiment.objective.score(network, samples[chosen], draws)["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("arm", ["hyper", "layer-norm", "plain"])
def test_every_arm_learns_a_text_better_than_the_frequencies_of_its_characters(text_file, arm):
    experiment = experiments()["hyperlstm-characters"]
    splits = load_text(str(text_file))
    network = experiment.arms[arm].network()
    learn(experiment, network, splits.train, steps=20, batch_size=8)
    counts = torch.tensor(list(Counter(text_file.read_text()).values()))
    entropy = -(counts / counts.sum()).log2() @ (counts / counts.sum())
    with torch.no_grad():
        assert of_texts(experiment.objective, network, splits.test[:]) < entropy - 1


@pytest.mark.parametrize("name", ["hyperlstm", "hyperlstm-permuted"])
def test_rows_of_digits_are_told_apart(digits_folder, name):
    experiment = experiments()[name]
    splits = experiment.load(str(digits_folder))
    network = experiment.arms["hyper"].network()
    learn(experiment, network, splits.train, steps=40, batch_size=32)
    images, labels = splits.test[:]
    with torch.no_grad():
        logits, answers = experiment.objective.score(network, (images, labels), None)["acc"]
    assert (logits.argmax(1) == answers).float().mean() > 0.3


def test_texts_are_drawn_over_the_moves_of_each_gate_and_the_bits_of_every_arm(text_file):
    experiment = experiments()["hyperlstm-characters"]
    splits = load_text(str(text_file))
    networks = {arm: shaken(each.network()).eval() for arm, each in experiment.arms.items()}
    figure = experiment.figure(networks, splits)
    *strips, bars = figure.axes[:5]
    assert bars.get_xlabel().startswith("bits per character")
    for strip, text in zip(strips, splits.test[:4][0], strict=True):
        written = "".join(each.get_text() for each in strip.texts)
        assert written.replace("\u00b7", " ") == as_text(text[:-1])
        moves = strip.collections[0].get_array()
        assert moves.size == 4 * 99 and (moves > 0).all()
    assert [label.get_text() for label in bars.get_yticklabels()] == list(networks)
    with torch.no_grad():
        expected = [of_texts(experiment.objective, network, splits.test[:]) for network in networks.values()]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(expected, rel=1e-5)
    plt.close(figure)

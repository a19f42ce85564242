"""The networks of the class, and what is drawn of their codes."""

from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import run
from torch import nn

from hyperconv.data import Splits, batch_loader
from hyperconv.data.digits import DigitDataset
from hyperconv.experiments import results
from hyperconv.experiments.classroom_autoencoder import (
    RECONSTRUCTION,
    AutoencoderOptions,
    between,
    drawn,
    figure,
    maps,
    principal_components,
)
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.trained import load_trained
from hyperconv.layers import HyperLayer
from hyperconv.training.objectives import Measured
from hyperconv.zoo.classroom import (
    HYPER,
    NORMAL,
    ClassroomBlock,
    classroom_classifier,
    convolutional_autoencoder,
    perceptron_autoencoder,
)

BOTTLENECKS = {"16x1x1": (16, 1), "4x2x2": (4, 2)}
draws = partial(torch.Generator().manual_seed, 0)


def autoencoders(bottleneck):
    experiment = experiments()["classroom-autoencoder"].with_options(AutoencoderOptions(bottleneck))
    torch.manual_seed(0)
    return {name: arm.network().eval() for name, arm in experiment.arms.items()}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network):
    kinds = (nn.Conv2d, nn.ConvTranspose2d, HyperLayer)
    return [part for part in network.modules() if isinstance(part, kinds)]


@pytest.mark.parametrize("convolution", [nn.Conv2d, HYPER.convolution], ids=["normal", "hyper"])
def test_block_adds_its_input_to_convolution_activation_dropout_and_norm_in_this_order(convolution):
    torch.manual_seed(0)
    block = ClassroomBlock(3, convolution, dropout=0.3)
    images = torch.randn(2, 3, 9, 9)
    layer, norm = block.branch[0], block.branch[-1]
    rectified = nn.functional.conv2d(images, layer.weight, layer.bias, padding="same").relu()
    assert torch.allclose(block.eval()(images), images + norm(rectified), atol=1e-5)
    norm.running_mean.fill_(7.0)
    assert torch.allclose(block(images), images + norm(rectified), atol=1e-5)
    dropping = block.train()
    seen = []
    norm.register_forward_pre_hook(lambda norm, arguments: seen.append(arguments[0]))
    dropping(images)
    kept = seen[0] != 0
    assert torch.allclose(seen[0][kept], rectified[kept] / 0.7, atol=1e-5)
    assert 0.5 < kept[rectified > 0].float().mean() < 0.9


@pytest.mark.parametrize(("layers", "generated"), [(HYPER, True), (NORMAL, False)], ids=["hyper", "normal"])
def test_classifiers_have_three_convolutions_or_more_and_at_most_a_hundred_thousand_parameters(layers, generated):
    network = classroom_classifier(layers)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert len(convolutions(network)) >= 3
    assert {isinstance(layer, HyperLayer) for layer in convolutions(network)} == {generated}
    assert parameters(network) <= 100_000


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_autoencoders_share_the_size_of_their_bottleneck_and_give_back_images(bottleneck):
    channels, side = BOTTLENECKS[bottleneck]
    for name, network in autoencoders(bottleneck).items():
        codes = network.encoder(torch.rand(2, 1, 28, 28))
        assert codes.shape == ((2, 16) if name.startswith("mlp") else (2, channels, side, side)), name
        images = network.decoder(codes)
        assert images.shape == (2, 1, 28, 28)
        assert 0 <= images.min() <= images.max() <= 1
        kinds = {isinstance(layer, HyperLayer) for layer in convolutions(network)}
        assert kinds == (set() if name.startswith("mlp") else {name.startswith("hyper")})
        repeats = any(isinstance(part, nn.Upsample) for part in network.decoder)
        assert repeats is name.endswith("upsampling")


def test_one_perceptron_has_the_parameters_of_the_convolutional_autoencoders_and_the_other_many_more():
    counts = {name: parameters(network) for name, network in autoencoders("16x1x1").items()}
    assert counts["mlp-small"] == pytest.approx(counts["normal-transposed"], rel=0.05)
    assert counts["mlp"] > 5 * counts["normal-transposed"]


@pytest.mark.parametrize(
    "make",
    [
        partial(convolutional_autoencoder, layers=NORMAL),
        partial(convolutional_autoencoder, (4, 2), "upsampling", HYPER),
        partial(perceptron_autoencoder, (64,)),
    ],
    ids=["transposed", "upsampling", "perceptron"],
)
def test_autoencoders_learn_digits(make, digits_folder):
    torch.manual_seed(0)
    network = make()
    images = experiments()["classroom-autoencoder"].load(str(digits_folder)).train[:64]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = RECONSTRUCTION.score(network, images, None)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * images[0].div(255).var(dim=0, unbiased=False).mean()


def test_the_error_is_that_of_all_pixels_of_the_split_however_it_is_batched(digits_folder):
    test = experiments()["classroom-autoencoder"].load(str(digits_folder)).test
    network = autoencoders("4x2x2")["normal-upsampling"]
    with torch.no_grad():
        whole = test[: len(test)][0] / 255
        expected = (network(whole) - whole).square().mean().item()
        for size in (7, 50, len(test)):
            measured = Measured(RECONSTRUCTION)
            for batch in batch_loader(test, size):
                measured.update(RECONSTRUCTION.score(network, batch, None), len(batch[0]))
            assert measured.figures() == pytest.approx({"loss": expected, "mse": expected}, rel=1e-5)


def test_principal_components_are_a_projection_that_no_other_of_as_many_dimensions_betters():
    images = torch.rand(200, 1, 6, 6, generator=draws())
    network = principal_components(images)
    with torch.no_grad():
        assert network.encoder(images).shape == (200, 16)
        once = network(images)
        assert torch.allclose(network(once), once, atol=1e-4)
        centred = images.flatten(1) - images.flatten(1).mean(dim=0)
        left_out = torch.linalg.svdvals(centred)[16:].square().sum() / images.numel()
        assert (once - images).square().mean().item() == pytest.approx(left_out.item(), rel=1e-3)


def test_maps_keep_groups_of_codes_apart():
    centres = 20 * torch.eye(3)[:, :, None, None]
    codes = torch.cat([centre + torch.randn(30, 3, 1, 1, generator=draws()) for centre in centres])
    for kind, places in maps(codes).items():
        groups = torch.from_numpy(places).view(3, 30, 2)
        within = (groups - groups.mean(dim=1, keepdim=True)).norm(dim=2).max()
        apart = torch.cdist(groups.mean(dim=1), groups.mean(dim=1))
        assert places.shape == (90, 2)
        assert apart[~torch.eye(3, dtype=torch.bool)].min() > within, kind


def test_what_lies_between_two_codes_is_on_a_line_at_even_steps():
    first, last = torch.randn(2, 4, 2, 2, generator=draws())
    codes = between(first, last, 5)
    assert torch.allclose(codes[[0, -1]], torch.stack([first, last]))
    assert torch.allclose(codes.diff(dim=0), (last - first).expand(4, -1, -1, -1) / 4, atol=1e-6)


def test_new_codes_have_the_spread_of_their_class():
    spread = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    class_codes = torch.randn(4000, 2, generator=draws()) @ spread.T
    codes = torch.cat([class_codes, class_codes + 50]).view(-1, 2, 1, 1)
    labels = torch.tensor([1, 8]).repeat_interleave(4000)
    new = torch.stack([drawn(codes, labels, seed) for seed in range(2000)])
    assert new.shape == (2000, 2, 2, 1, 1)
    for group, offset in zip(new.flatten(2).unbind(dim=1), (0, 50), strict=True):
        assert torch.allclose(group.mean(dim=0), torch.full((2,), float(offset)), atol=0.1)
        assert torch.allclose(group.T.cov(), spread @ spread.T, atol=0.1)
    assert torch.equal(drawn(codes, labels, 3), drawn(codes, labels, 3))


def test_a_class_of_one_code_gives_that_code():
    codes = torch.tensor([[1.0, 2.0], [5.0, 5.0], [7.0, 5.0]])
    assert torch.allclose(drawn(codes, torch.tensor([4, 9, 9]), seed=0)[0], codes[0], atol=1e-4)


def test_the_figure_shows_what_each_autoencoder_makes_and_its_error():
    """Of digits of one class and size too."""
    images = torch.randint(256, (20, 28, 28), generator=draws(), dtype=torch.uint8)
    for labels in (torch.arange(20) % 10, torch.zeros(20, dtype=torch.long)):
        digits = DigitDataset(images, labels)
        networks = {"one": autoencoders("4x2x2")["hyper-transposed"]}
        drawing = figure(networks, Splits("noise", digits, digits, digits, note=""))
        whole = images.unsqueeze(1) / 255
        with torch.no_grad():
            error = (networks["one"](whole) - whole).square().mean().item()
        labelled = [label.get_text() for axis in drawing.axes for label in axis.get_yticklabels()]
        assert f"one, {error:.4f}" in labelled
        assert "4x2x2" in drawing.get_suptitle()
        plt.close(drawing)


def test_the_bottleneck_is_an_option_that_changes_convolutional_arms_only(tmp_path, digits_folder, capsys):
    flags = ("--experiment", "classroom-autoencoder", "--arms", "normal-transposed", "mlp-small", "--epochs", "1")
    flags = (*flags, "--bottleneck", "4x2x2", "--data", str(digits_folder), "--accelerator", "cpu")
    code, _, err = run(capsys, *flags, "--logs", str(tmp_path), "--out", str(tmp_path), "--name", "codes")
    assert code == 0, err
    told = {row.arm: row.settings for row in results.read(tmp_path / "codes" / "results.csv")}
    assert told == {"normal-transposed": "bottleneck=4x2x2 epochs=1", "mlp-small": "epochs=1"}
    network = load_trained(tmp_path / "codes" / "normal-transposed" / "best.ckpt")
    assert network.encoder(torch.zeros(1, 1, 28, 28)).shape == (1, 4, 2, 2)
    assert (tmp_path / "classroom-autoencoder-bottleneck4x2x2-epochs1.png").is_file()


def test_another_bottleneck_ends_with_code_two(tmp_path, capsys):
    flags = ("--experiment", "classroom-autoencoder", "--bottleneck", "8x1x1", "--logs", str(tmp_path))
    code, _, err = run(capsys, *flags)
    assert code == 2
    assert 'key "bottleneck"' in err and "16x1x1" in err

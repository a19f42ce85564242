from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch.utils.data import TensorDataset
from writers import write_hippocampus, write_volumes

from hyperconv import magnitude_invariant
from hyperconv.data import Splits, batch_loader, load_digits
from hyperconv.data.hippocampus import slices_of, volumes_of
from hyperconv.data.pairs import digit_pairs, hippocampus_pairs
from hyperconv.errors import InputError
from hyperconv.experiments import hypermorph
from hyperconv.experiments.declared import experiments
from hyperconv.extras import command_for
from hyperconv.training.objectives import Measured
from hyperconv.zoo.hypermorph import VoxelMorph, enlarged, hyper_morph, integrate, warp

TINY = {"encoder": (4, 4), "decoder": (4, 4, 4)}


SIDES = {2: (16, 24), 3: (16, 24, 16)}
DIMS = pytest.mark.parametrize("dims", SIDES)


def smooth_field(amplitude: float, dims: int = 2) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, dims, *[4] * dims, generator=draws) * amplitude
    return F.interpolate(coarse, size=SIDES[dims], mode={2: "bicubic", 3: "trilinear"}[dims]).double()


@DIMS
def test_warp_samples_as_scipy_does(dims):
    images, displacement = torch.rand(2, 3, *SIDES[dims]).double(), smooth_field(3.0, dims)
    places = np.indices(SIDES[dims])
    for image, along, warped in zip(images, displacement.numpy(), warp(images, displacement), strict=True):
        for channel, expected in zip(image.numpy(), warped.numpy(), strict=True):
            sampled = map_coordinates(channel, places + along[::-1], order=1, mode="nearest")
            np.testing.assert_allclose(sampled, expected, atol=1e-12)


@DIMS
def test_integral_is_the_end_of_the_flow(dims):
    velocity = smooth_field(0.7, dims)
    position = torch.zeros_like(velocity)
    for _ in range(500):
        position = position + warp(velocity, position) / 500
    error = (integrate(velocity) - position).abs()
    assert error.max() < 0.1
    assert error.mean() < 0.1 * (velocity - position).abs().mean()


@DIMS
def test_velocity_and_its_reverse_undo_each_other(dims):
    velocity = smooth_field(0.7, dims)
    there, back = integrate(velocity), integrate(-velocity)
    round_trip = there + warp(back, there)
    assert round_trip.abs().mean() < 0.05 * there.abs().mean()


@DIMS
def test_a_larger_image_is_moved_as_its_smaller_twin(dims):
    coarse = torch.linspace(-1, 1, 8).view(-1, *[1] * (dims - 1)).expand(1, dims, *[8] * dims).double()
    fine = enlarged(coarse, [16] * dims)
    inner = (slice(None), slice(None), *[slice(1, -1)] * dims)
    twice = 2 * torch.nn.functional.interpolate(coarse, scale_factor=2, mode={2: "bilinear", 3: "trilinear"}[dims])
    torch.testing.assert_close(fine[inner], twice[inner])
    assert torch.equal(enlarged(coarse, [8] * dims), coarse)
    wider = enlarged(coarse, [8] * (dims - 1) + [24])
    torch.testing.assert_close(wider[0, :, 0, ..., 0].flatten(), coarse[0, :, 0, ..., 0].flatten() * factors(dims))


def factors(dims: int) -> torch.Tensor:
    """Of a displacement's components, in an image that is three times as long along its last axis."""
    first = torch.tensor([3.0, 1.0, 1.0][:dims]).double()
    return first if dims == 2 else first.repeat_interleave(8)


@DIMS
@pytest.mark.parametrize("levels", [3, 2, 1])
def test_a_given_weight_is_a_plain_network_with_the_generated_kernels(dims, levels):
    torch.manual_seed(0)
    sizes = {"encoder": (4, 4), "decoder": (4, 4, 4)[:levels], "dims": dims}
    hyper, plain = hyper_morph((8, 8), **sizes), VoxelMorph(**sizes)
    for parameter in hyper.network.velocity.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    moving, fixed, weight = torch.rand(2, 1, *[16] * dims), torch.rand(2, 1, *[16] * dims), torch.tensor([0.3])
    told = magnitude_invariant(weight)
    h = hyper.features(told)
    layers = [[*network.encoder, *network.decoder, network.velocity] for network in (hyper.network, plain)]
    for generated, stored in zip(*layers, strict=True):
        kernel, bias = (generated.generator, stored.weight), (generated.bias_generator, stored.bias)
        for generator, parameter in (kernel, bias):
            parameter.data = torch.einsum("d,d...->...", h, generator.weight) + generator.bias
    expected = plain(moving, fixed)
    assert expected.displacement.abs().max() > 0.01
    assert expected.velocity.shape[2:] == torch.Size([16 // 2 ** (3 - levels)] * dims)
    for context in (told, told.expand(2, 2)):
        for found, wanted in zip(hyper(moving, fixed, context=context), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@DIMS
@pytest.mark.parametrize("kind", [VoxelMorph, partial(hyper_morph, (8,))])
def test_starts_at_the_identity(dims, kind):
    moving, fixed = torch.rand(2, 1, *[16] * dims), torch.rand(2, 1, *[16] * dims)
    told = {} if kind is VoxelMorph else {"context": torch.ones(2)}
    registered = kind(**TINY, dims=dims)(moving, fixed, **told)
    assert not registered.displacement.any()
    torch.testing.assert_close(registered.moved, moving)


@pytest.mark.parametrize("decoder", [(), (4, 4, 4, 4)])
def test_a_decoder_of_other_levels_is_refused(decoder):
    with pytest.raises(ValueError, match=f"a decoder of {len(decoder)} widths does not fit an encoder of 2"):
        VoxelMorph(encoder=(4, 4), decoder=decoder)


def test_loss_dice_and_folds_of_a_known_deformation():
    moving, fixed = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    velocity = torch.randn(2, 2, 8, 8)
    # x to 3 - x / 2 turns the image over
    displacement = torch.stack([3 - 1.5 * torch.arange(8.0).expand(2, 8, 8), torch.zeros(2, 8, 8)], dim=1)
    figures = hypermorph.registered(
        hypermorph.DIGITS, lambda *_, context: (moving, displacement, velocity), (moving, fixed), 0.25
    )
    field = velocity.numpy()
    gradient = (np.square(np.diff(field, axis=2)).mean() + np.square(np.diff(field, axis=3)).mean()) / 2
    error = np.square(moving.numpy() - fixed.numpy()).mean()
    assert figures["loss"].item() == pytest.approx(0.75 * error / 0.05**2 + 0.25 * gradient, rel=1e-5)
    overlaps = [
        2 * ((a > 0.5) & (b > 0.5)).sum() / ((a > 0.5).sum() + (b > 0.5).sum())
        for a, b in zip(moving.numpy(), fixed.numpy(), strict=True)
    ]
    assert figures["parts"].flatten().tolist() == pytest.approx(overlaps, rel=1e-5)
    assert (hypermorph.jacobian_determinants(figures["displacement"]) < 0).all()


@DIMS
def test_determinants_are_those_of_the_jacobian(dims):
    matrix = torch.randn(dims, dims).double()
    places = torch.stack(torch.meshgrid(*[torch.arange(5.0).double()] * dims, indexing="ij"))
    # components are along the last axis first
    displacement = torch.einsum("ij,j...->i...", matrix, places).flip(0).unsqueeze(0)
    expected = torch.linalg.det(torch.eye(dims) + matrix)
    found = hypermorph.jacobian_determinants(displacement)
    torch.testing.assert_close(found, expected.expand_as(found))


def test_drawn_weights_cover_the_range_and_its_ends():
    weights = [hypermorph.drawn_weight(torch.Generator().manual_seed(seed)) for seed in range(4000)]
    inside = [weight for weight in weights if 0 < weight < 1]
    assert np.mean([weight == 0 for weight in weights]) == pytest.approx(0.025, abs=0.01)
    assert np.mean([weight == 1 for weight in weights]) == pytest.approx(0.025, abs=0.01)
    assert np.quantile(inside, [0.25, 0.5, 0.75]) == pytest.approx([0.44, 0.66, 0.84], abs=0.03)


def test_pairs_are_of_one_class_and_of_different_digits(digits_folder):
    digits, splits = load_digits(str(digits_folder)), digit_pairs(str(digits_folder))
    for split in ("train", "validation", "test"):
        originals, labels = getattr(digits, split)[:]
        places = []
        for images in getattr(splits, split)[:]:
            distances = torch.cdist(images[:, :, 2:-2, 2:-2].flatten(1).float(), originals.flatten(1).float())
            assert (distances.min(1).values == 0).all()
            places.append(distances.argmin(1))
        assert torch.equal(*(labels[place] for place in places))
        assert (places[0] != places[1]).all()


@DIMS
def test_no_patient_is_in_two_splits_or_paired_with_themselves(tmp_path, dims):
    if dims == 3:
        pytest.importorskip("nibabel", reason=command_for("medical"))
    folder = (write_hippocampus if dims == 2 else write_volumes)(tmp_path)
    splits = hippocampus_pairs(str(folder), dims)
    of_split = []
    for pairs in (splits.train, splits.validation, splits.test):
        places = torch.stack([pairs.moving, pairs.fixed])
        patients = places // 2  # files are numbered from 1, and 2 n - 1 and 2 n are of one patient
        assert (patients[0] != patients[1]).all()
        of_split.append(set(patients.flatten().tolist()))
    assert not (of_split[0] & of_split[1] or of_split[0] & of_split[2] or of_split[1] & of_split[2])
    whole = (slices_of if dims == 2 else volumes_of)(str(folder))[1]
    of_pairs = [splits.test.moving, splits.test.fixed]
    for images, parts, places in zip(splits.test[:3][:2], splits.test[:3][2:], of_pairs, strict=True):
        assert all(side % 8 == 0 for side in images.shape[2:])
        for image, of_image, place in zip(images, parts, places[:3].tolist(), strict=True):
            original, labels = whole[place]
            # in the middle of nothing
            margins = [(side - own) // 2 for side, own in zip(image.shape[1:], original.shape[1:], strict=True)]
            inside = tuple(slice(m, m + own) for m, own in zip(margins, original.shape[1:], strict=True))
            assert torch.equal(image[:, *inside], original)
            assert image.long().sum() == original.long().sum()
            for number, part in enumerate(of_image, 1):
                assert torch.equal(part[inside], labels[0] == number)
                assert part.sum() == (labels == number).sum()


def test_a_split_of_one_patient_cannot_be_paired(tmp_path):
    folder = write_hippocampus(tmp_path, case_id=np.array([1, 2] * 8 + [3, 4, 5, 6, 7, 8, 9, 10]))
    with pytest.raises(InputError, match="has no two patients to pair"):
        hippocampus_pairs(str(folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((24, 32, 30), np.uint8)}, "must be"),
        ({"labels": np.full((24, 32, 32), 3, np.uint8)}, "labels up to 3"),
        ({"images": np.zeros((24, 32, 32))}, "float64"),
        ({"images": np.zeros((24, 0, 32), np.uint8), "labels": np.zeros((24, 0, 32), np.uint8)}, "must be"),
    ],
)
def test_unusable_hippocampus_files(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        hippocampus_pairs(str(write_hippocampus(tmp_path, **changes)))


def test_missing_or_damaged_hippocampus_file(tmp_path):
    with pytest.raises(InputError, match=r"no NIfTI files.*--data"):
        hippocampus_pairs(str(tmp_path))
    (tmp_path / "hippocampus_2d_64.npz").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(InputError, match="get it anew"):
        hippocampus_pairs(str(tmp_path))
    np.savez(tmp_path / "hippocampus_2d_64.npz", images=np.zeros((24, 32, 32), np.uint8))
    with pytest.raises(InputError, match="no array case_id"):
        hippocampus_pairs(str(tmp_path))


TASK = hypermorph.SLICES


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A small network for every weight after a few steps on hippocampi, and their splits."""
    splits = hippocampus_pairs(str(write_hippocampus(tmp_path_factory.mktemp("hippocampi"))))
    splits = Splits("hippocampus", splits.train, *(few(split, 20) for split in (splits.validation, splits.test)), "")
    torch.manual_seed(0)
    network = hyper_morph((16, 16), encoder=(8, 8), decoder=(8, 8, 8))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        chosen = torch.randint(len(splits.train), (32,), generator=draws)
        hypermorph.registration(TASK, network, splits.train[chosen], draws)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval(), splits


def few(dataset, count):
    return TensorDataset(*dataset[:count])


def test_one_network_registers_better_than_none_at_every_weight(learned):
    figures = {(figure.metric, figure.at): figure.value for figure in hypermorph.figures_at_best_weight(TASK, *learned)}
    before = figures["Dice", "unregistered"]
    assert before < 0.7
    assert figures["Dice", "best λ"] > before + 0.05
    assert all(figures["Dice", f"λ={weight}"] > before for weight in TASK.weights)
    assert 0 <= figures["λ", "best λ"] <= 1


@pytest.mark.parametrize("size", [1, 6, 20])
def test_dice_is_that_of_all_pairs_whatever_the_batches(learned, size):
    network, splits = learned
    objective = experiments()["hypermorph-hippocampus"].objective
    measured = Measured(objective)
    with torch.no_grad():
        for batch in batch_loader(splits.test, size):
            measured.update(objective.score(network, batch, None), objective.samples(batch))
    at_weights = [hypermorph.mean_figures(TASK, network, splits.test, weight) for weight in TASK.weights]
    for column, name in (("dice", "Dice"), ("loss", "loss")):
        assert measured.figures()[column] == pytest.approx(np.mean([each[name] for each in at_weights]), rel=1e-5)


def test_pairs_are_drawn_registered_with_figures_against_the_weight(learned):
    network, splits = learned
    fixed = hypermorph.ForOneWeight(0.5).eval()
    generated = hypermorph.GeneratedForOneWeight(0.5).eval()
    networks = {"hyper": network, "fixed-0.5": fixed, "hyper-0.5": generated}
    figure = hypermorph.slide(TASK, networks, splits, search=True)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["moving", "fixed", *(f"λ = {weight:g}" for weight in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1))]
    dice, loss, folds = (axis for axis in figure.axes if axis.get_xlabel())
    assert [axis.get_ylabel() for axis in (dice, loss, folds)] == ["Dice", "loss", "folded pixels (%)"]
    drawn = {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in loss.lines}
    weights, losses = drawn["one network"]
    expected = [hypermorph.mean_figures(TASK, network, splits.test, weight)["loss"] for weight in weights]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    ((weight,), (of_fixed,)) = drawn["a network for each λ"]
    assert weight == 0.5
    ((_,), (of_generated,)) = drawn["for one λ"]
    of_one = hypermorph.mean_figures(TASK, generated, splits.test, 0.5)["loss"]
    assert of_generated == pytest.approx(of_one, rel=1e-5)
    assert of_fixed == pytest.approx(hypermorph.mean_figures(TASK, fixed, splits.test, 0.5)["loss"], rel=1e-5)
    before = next(line for line in dice.lines if line.get_label() == "before")
    assert before.get_ydata()[0] == pytest.approx(hypermorph.unregistered(TASK, splits)["Dice"])
    image = next(axis for axis in figure.axes if axis.get_title() == "fixed").images[0].get_array()
    np.testing.assert_allclose(image, splits.test[:1][1][0, 0] / 255, atol=1e-6)
    plt.close(figure)

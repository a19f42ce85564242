import copy
import pickle
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperconv import (
    CoordinateMLP,
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    MNISTClassifier,
    ResidualBlock,
    convolution,
    functional,
    kernel_grid,
)

HYPER = {1: HyperConv1d, 2: HyperConv2d, 3: HyperConv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def cases():
    for dims, groups, kernel_size, stride, padding, dilation, mode in product(
        (1, 2, 3), (1, 2), (1, 2, 3, 5), (1, 2), (0, 2, "same"), (1, 2), ("zeros", "reflect", "circular", "replicate")
    ):
        if padding == "same" and stride > 1:
            continue
        yield dims, groups, kernel_size, stride, padding, dilation, mode


@pytest.mark.parametrize("dims", (1, 2, 3))
def test_equals_torch_convolution_with_the_same_weight(dims):
    torch.manual_seed(0)
    for case in cases():
        if case[0] != dims:
            continue
        _, groups, kernel_size, stride, padding, dilation, mode = case
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
        hyper = HYPER[dims](4, 6, kernel_size, **settings)
        plain = PLAIN[dims](4, 6, kernel_size, **settings)
        plain.load_state_dict({"weight": hyper.weight, "bias": hyper.bias})
        images = torch.randn(2, 4, *[10, 11, 9][:dims])
        torch.testing.assert_close(hyper(images), plain(images), msg=lambda text, case=case: f"{case}: {text}")
        assert hyper.weight.shape == plain.weight.shape


def test_uneven_sizes_per_axis_and_unbatched_input():
    hyper = HyperConv2d(3, 4, (2, 5), stride=(1, 2), padding=(1, 0), dilation=(2, 1), padding_mode="circular")
    plain = nn.Conv2d(3, 4, (2, 5), stride=(1, 2), padding=(1, 0), dilation=(2, 1), padding_mode="circular")
    plain.load_state_dict({"weight": hyper.weight, "bias": hyper.bias})
    images = torch.randn(3, 9, 12)
    torch.testing.assert_close(hyper(images), plain(images))


def test_gradients_reach_every_parameter_and_are_right():
    torch.manual_seed(0)
    for norm in ("stateless", "none", "batchnorm"):
        layer = HyperConv2d(2, 3, 3, generator=partial(CoordinateMLP, hidden=(5, 4), norm=norm), dtype=torch.float64)
        names, values = zip(*layer.named_parameters(), strict=True)
        images = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)

        def run(images, *values, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (images,))

        assert torch.autograd.gradcheck(run, (images, *values))
        layer(images).square().sum().backward()
        # batchnorm cancels nothing but the head's common offset, so every parameter learns
        assert all(parameter.grad.abs().sum() > 0 for parameter in values)


@pytest.mark.parametrize("norm", ("stateless", "batchnorm", "none"))
@pytest.mark.parametrize("size", ((3,), (31,), (2, 2), (3, 3), (5, 5), (31, 31), (3, 3, 3), (7, 7, 7)))
def test_initial_kernels_have_the_scale_of_torch(norm, size):
    torch.manual_seed(0)
    channels = 16
    plain = PLAIN[len(size)](channels, channels, size)
    ratios = [
        CoordinateMLP((channels, channels, *size), norm=norm)().square().mean().sqrt() / plain.weight.std()
        for _ in range(20)
    ]
    assert torch.stack(ratios).mean().item() == pytest.approx(1, abs=0.1)


def test_one_tap_kernel_has_nothing_to_standardise_and_still_works():
    torch.manual_seed(0)
    kernels = torch.stack([CoordinateMLP((32, 32, 1, 1))() for _ in range(20)])
    assert kernels.std().item() == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.1)
    with pytest.raises(ValueError, match="more than one tap"):
        CoordinateMLP((4, 4, 1, 1), norm="batchnorm")


def test_stateless_standardisation_matches_its_definition():
    torch.manual_seed(0)
    generator = CoordinateMLP((8, 4, 5, 5))
    nn.init.normal_(generator.scale)
    nn.init.normal_(generator.mean)
    raw = torch.einsum("pn,oni->oip", generator.trunk(generator.grid), generator.head)
    standard = (raw - raw.mean(-1, keepdim=True)) / raw.var(-1, keepdim=True, correction=0).add(1e-5).sqrt()
    expected = (standard * generator.scale.mT + generator.mean.mT) * generator.kernel_std
    torch.testing.assert_close(generator().flatten(2), expected, atol=1e-6, rtol=1e-5)


def test_kernels_are_the_same_in_training_and_evaluation_unless_batchnorm():
    torch.manual_seed(0)
    for norm, same in (("stateless", True), ("none", True), ("batchnorm", False)):
        generator = CoordinateMLP((8, 4, 5, 5), norm=norm)
        training, evaluation = generator.train()(), generator.eval()()
        assert torch.equal(training, evaluation) == same


def test_continuous_kernel_passes_through_the_taps():
    generator = CoordinateMLP((8, 4, 3, 5))
    fine = kernel_grid((9, 15)) / 3
    sampled = generator.sample(fine).unflatten(1, (9, 15)).movedim(-1, 1)
    torch.testing.assert_close(sampled[..., 1::3, 1::3], generator())


def test_kernel_is_channels_last_without_a_copy():
    kernel = CoordinateMLP((8, 4, 5, 5))()
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_state_dict_holds_parameters_only_and_loads_across_kernel_sizes():
    small, large = CoordinateMLP((8, 4, 3, 3)), CoordinateMLP((8, 4, 7, 7))
    assert set(small.state_dict()) == {name for name, _ in small.named_parameters()}
    large.load_state_dict(small.state_dict())
    assert large().shape == (8, 4, 7, 7)


def test_survives_deepcopy_and_pickle_after_use():
    layer = HyperConv2d(3, 4, 5)
    images = torch.randn(1, 3, 8, 8)
    expected = layer(images)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(images), expected)


def test_compiles_without_graph_breaks():
    block = ResidualBlock(4).to(memory_format=torch.channels_last)
    images = torch.randn(2, 4, 8, 8)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    expected = block(images)
    torch.testing.assert_close(compiled(images), expected)
    compiled(images).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 6, 0), r"kernel_size must be 2 numbers of 1 or more, got 0"),
        ((4, 6, -3), r"kernel_size must be 2 numbers of 1 or more, got -3"),
        ((4, 6, (3, 3, 3)), r"kernel_size must be 2 numbers .* \(3, 3, 3\)"),
        ((4, 6, 3, 0), r"stride must be .* got 0"),
        ((4, 6, 3, 1, -1), r"padding must be .* got -1"),
        ((4, 6, 3, 2, "same"), r"'same' needs stride 1, got \(2, 2\)"),
        ((4, 6, 3, 1, "full"), r"'same' or 'valid'; got 'full'"),
        ((4, 6, 3, 1, 0, 1, 3), r"groups 3 do not divide 4 input and 6 output channels"),
        ((4, 6, 3, 1, 0, 1, 1, True, "mirror"), r"padding_mode .* got 'mirror'"),
        ((0, 6, 3), r"channels must be 1 or more, got 0 in, 6 out"),
    ],
)
def test_arguments_that_make_no_convolution_name_the_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        HyperConv2d(*arguments)


def test_generator_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="takes no context, got one of shape"):
        HyperConv2d(2, 2, 3)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="hidden widths"):
        CoordinateMLP((2, 2, 3, 3), hidden=())
    with pytest.raises(ValueError, match="norm must be one of"):
        CoordinateMLP((2, 2, 3, 3), norm="layer")
    with pytest.raises(ValueError, match="1 to 3 axes"):
        convolution(torch.zeros(1, 2), torch.zeros(2, 2))


def test_functional_convolution_is_torch_convolution():
    images, kernel = torch.randn(2, 4, 9, 9), torch.randn(6, 2, 3, 3)
    expected = F.conv2d(images, kernel, None, 2, 1, 2, 2)
    assert torch.equal(convolution(images, kernel, None, 2, 1, 2, 2), expected)


@pytest.mark.parametrize("size", ((1, 3), (3, 3), (3, 5), (5, 5), (7, 7), (3, 9)))
@pytest.mark.parametrize("channels", ((2, 2), (8, 8), (3, 5)))
def test_pairing_columns_of_narrow_images_changes_nothing(channels, size):
    inputs, outputs = channels
    images = torch.randn(2, inputs, 6, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(outputs, inputs, *size, dtype=torch.float64)
    results = []
    for convolve in (functional._convolution_of_column_pairs, partial(F.conv2d, padding="same")):
        leaves = [images.clone().requires_grad_(), kernel.clone().requires_grad_()]
        output = convolve(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_narrow_channels_last_images_take_the_paired_path(monkeypatch):
    taken = []
    paired = functional._convolution_of_column_pairs
    monkeypatch.setattr(functional, "_WIDE_VECTORS", True)
    monkeypatch.setattr(
        functional, "_convolution_of_column_pairs", lambda *args: taken.append(args[0].shape) or paired(*args)
    )
    MNISTClassifier("hyper")(torch.rand(2, 1, 28, 28))
    assert taken == [(2, 8, 28, 28)] * 4


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_mixed_precision_rounds_the_kernel_and_nothing_before_it(dtype):
    layer = HyperConv2d(4, 4, 5)
    with torch.autocast("cpu", dtype):
        kernel = layer.weight
        output = layer(torch.randn(1, 4, 8, 8))
    assert output.dtype == dtype
    assert torch.equal(kernel, layer.weight)


def test_materialises_from_the_meta_device():
    layer = HyperConv2d(4, 4, 5, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.generator.grid, kernel_grid((5, 5)))
    assert layer.weight.isfinite().all()

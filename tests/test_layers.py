import copy
import pickle
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from generators import PER_SAMPLE, SHARED, context_for
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from hyperconv import (
    CoordinateMLP,
    GeneratedTogether,
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    HyperConvTranspose1d,
    HyperConvTranspose2d,
    HyperConvTranspose3d,
    HyperLinear,
    ResidualBlock,
    bake,
    cached,
    convolution,
    functional,
    kernel_grid,
    plan,
    resize,
)
from hyperconv.generators.base import decorrelation
from hyperconv.plan import Way
from hyperconv.zoo.digit_classifier import digit_classifier

HYPER = {1: HyperConv1d, 2: HyperConv2d, 3: HyperConv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
HYPER_TRANSPOSED = {1: HyperConvTranspose1d, 2: HyperConvTranspose2d, 3: HyperConvTranspose3d}
PLAIN_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def cases():
    for channels, kernel_size, stride, padding, dilation, mode in product(
        ((4, 6, 1), (4, 6, 2), (1, 3, 1), (4, 4, 4)),
        (1, 2, 3, 5),
        (1, 2),
        (0, 2, "same"),
        (1, 2),
        ("zeros", "reflect", "circular", "replicate"),
    ):
        if padding == "same" and stride > 1:
            continue
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": mode}
        yield channels, kernel_size, settings


def ways():
    for name in SHARED:
        yield name, Way.BUILT
        if "coordinate" in name:
            yield name, Way.FILTERED


@pytest.mark.parametrize(("name", "way"), list(ways()))
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_equals_torch_convolution_with_the_same_weight(dims, name, way, factory, tolerance, monkeypatch):
    monkeypatch.setattr(plan, "way_for_all", lambda form, *_, way=way: Way.BUILT if form is None or _[-1] > 1 else way)
    torch.manual_seed(0)
    every = list(cases())
    # each generator meets every option, all of them together half of all combinations
    for (inputs, outputs, groups), kernel_size, settings in every[list(SHARED).index(name) :: 2 * len(SHARED)]:
        settings = {**settings, "groups": groups}
        hyper = HYPER[dims](inputs, outputs, kernel_size, **settings, generator=SHARED[name], **factory)
        plain = PLAIN[dims](inputs, outputs, kernel_size, **settings, **factory)
        plain.load_state_dict({"weight": hyper.weight, "bias": hyper.bias})
        images = torch.randn(2, inputs, *[10, 11, 9][:dims], **factory)
        message = {"msg": lambda text, s=settings: f"{s}: {text}"}
        torch.testing.assert_close(hyper(images), plain(images), **tolerance, **message)
        assert hyper.weight.shape == plain.weight.shape


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_equals_torch_transposed_convolution_with_the_same_weight(dims, name, factory, tolerance):
    torch.manual_seed(0)
    every = list(product(((4, 6, 1), (4, 6, 2), (4, 4, 4)), (1, 2, 3), (1, 2, 3), (0, 1), (0, 1), (1, 2)))
    for (inputs, outputs, groups), kernel_size, stride, padding, extra, dilation in every[
        list(SHARED).index(name) :: 2 * len(SHARED)
    ]:
        if extra >= max(stride, dilation):
            continue
        settings = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
        settings = {**settings, "groups": groups, **factory}
        hyper = HYPER_TRANSPOSED[dims](inputs, outputs, kernel_size, **settings, generator=SHARED[name])
        plain = PLAIN_TRANSPOSED[dims](inputs, outputs, kernel_size, **settings)
        plain.load_state_dict({"weight": hyper.weight, "bias": hyper.bias})
        images = torch.randn(2, inputs, *[4, 5, 3][:dims], **factory)
        torch.testing.assert_close(hyper(images), plain(images), **tolerance)
        larger = [size + stride - 1 - extra for size in hyper(images).shape[2:]]
        torch.testing.assert_close(hyper(images, output_size=larger), plain(images, output_size=larger), **tolerance)


@pytest.mark.parametrize("name", PER_SAMPLE)
@pytest.mark.parametrize("dims", (1, 2, 3))
def test_a_context_a_sample_equals_torch_sample_by_sample(dims, name, factory, tolerance):
    torch.manual_seed(0)
    images = torch.randn(3, 4, *[8, 9, 7][:dims], **factory)
    settings = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}
    for hyper, plain, more in (
        (HYPER, PLAIN, settings),
        (HYPER, PLAIN, {"padding": "same", "padding_mode": "circular"}),
        (HYPER_TRANSPOSED, PLAIN_TRANSPOSED, {**settings, "output_padding": 1}),
    ):
        for bias in (True, False, "generated"):
            if bias == "generated" and ("coordinate" in name or "low rank" in name):
                continue
            layer = hyper[dims](4, 6, 3, bias=bias, **more, generator=PER_SAMPLE[name], **factory)
            contexts = context_for(layer.generator, 3, **factory)
            expected = []
            for image, context in zip(images, contexts, strict=True):
                twin = plain[dims](4, 6, 3, bias=bool(bias), **more, **factory)
                weights = {"weight": layer.generator(context)}
                if bias:
                    weights["bias"] = layer.bias if bias is True else layer.bias_generator(context)
                twin.load_state_dict(weights)
                expected.append(twin(image))
                torch.testing.assert_close(layer(image[None], context=context)[0], expected[-1], **tolerance)
            batched = {"rtol": 1e-4, "atol": 1e-5, **tolerance}
            torch.testing.assert_close(layer(images, context=contexts), torch.stack(expected), **batched)


@pytest.mark.parametrize("name", [name for name in PER_SAMPLE if "coordinate" not in name])
def test_linear_equals_torch_sample_by_sample(name, factory, tolerance):
    torch.manual_seed(0)
    rows = torch.randn(3, 2, 5, **factory)
    batched = {"rtol": 1e-4, "atol": 1e-5, **tolerance}
    for bias in (True, False) if name == "low rank" else (True, False, "generated"):
        layer = HyperLinear(5, 4, bias=bias, generator=PER_SAMPLE[name], **factory)
        contexts = context_for(layer.generator, 3, **factory)
        for number, context in enumerate(contexts):
            own = layer.bias if layer.bias_generator is None else layer.bias_generator(context)
            expected = F.linear(rows[number], layer.generator(context), own)
            torch.testing.assert_close(layer(rows[number], context), expected, **tolerance)
            torch.testing.assert_close(layer(rows, contexts)[number], expected, **batched)
            torch.testing.assert_close(layer(rows[:, 0], contexts)[number], expected[0], **batched)
    shared = HyperLinear(5, 4, **factory)
    torch.testing.assert_close(shared(rows), F.linear(rows, shared.weight, shared.bias), **tolerance)


def test_a_generated_bias_starts_at_the_scale_of_a_stored_one():
    torch.manual_seed(0)
    layer = HyperConv2d(16, 256, 5, bias="generated", generator=PER_SAMPLE["dense"])
    generated = layer.bias_generator(torch.randn(500, 3))
    assert generated.std().item() == pytest.approx(nn.Conv2d(16, 256, 5).bias.std().item(), rel=0.15)
    with pytest.raises(ValueError, match="CoordinateMLP cannot generate a bias of 8 numbers"):
        HyperConv2d(4, 8, 3, bias="generated")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer, images: layer(images), "needs a context of width 3, got none"),
        (lambda layer, images: layer(images, torch.zeros(2, 4)), r"needs a context \(3,\) or \(B, 3\), got \(2, 4\)"),
        (lambda layer, images: layer(images, torch.zeros(5, 3)), "5 contexts for 2 samples"),
        (
            lambda layer, images: layer(images[0], torch.zeros(2, 3)),
            r"\(2, 3\), needs a batch of inputs, got \(4, 8, 8\)",
        ),
        (lambda layer, images: layer(images[:, :3], torch.zeros(2, 3)), r"4 input channels .* shape \(2, 3, 8, 8\)"),
        (lambda layer, images: layer(images[..., None], torch.zeros(2, 3)), r"2 dimensions .* \(2, 4, 8, 8, 1\)"),
    ],
)
def test_contexts_that_do_not_fit_name_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(HyperConv2d(4, 6, 3, generator=PER_SAMPLE["dense"]), torch.zeros(2, 4, 8, 8))


def test_uneven_sizes_per_axis_and_unbatched_input():
    hyper = HyperConv2d(3, 4, (2, 5), stride=(1, 2), padding=(1, 0), dilation=(2, 1), padding_mode="circular")
    plain = nn.Conv2d(3, 4, (2, 5), stride=(1, 2), padding=(1, 0), dilation=(2, 1), padding_mode="circular")
    plain.load_state_dict({"weight": hyper.weight, "bias": hyper.bias})
    images = torch.randn(3, 9, 12)
    torch.testing.assert_close(hyper(images), plain(images))


def test_gradients_reach_every_parameter_and_are_right():
    torch.manual_seed(0)
    for norm in ("decorrelated", "stateless", "none", "batchnorm"):
        layer = HyperConv2d(2, 3, 3, generator=partial(CoordinateMLP, hidden=(5, 4), norm=norm), dtype=torch.float64)
        names, values = zip(*layer.named_parameters(), strict=True)
        images = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)

        def run(images, *values, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (images,))

        assert torch.autograd.gradcheck(run, (images, *values))
        layer(images).square().sum().backward()
        # batchnorm cancels nothing but the head's common offset, so every parameter learns
        assert all(parameter.grad.abs().sum() > 0 for parameter in values)


@pytest.mark.parametrize("norm", ("decorrelated", "stateless", "batchnorm", "none"))
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


@pytest.mark.parametrize("norm", ("stateless", "decorrelated"))
def test_standardisation_matches_its_definition(norm):
    torch.manual_seed(0)
    generator = CoordinateMLP((8, 4, 5, 5), norm=norm)
    nn.init.normal_(generator.scale)
    nn.init.normal_(generator.mean)
    features = generator.trunk(generator.grid)
    if norm == "decorrelated":
        features = features @ decorrelation(features - features.mean(0))
    raw = torch.einsum("pn,oni->oip", features, generator.head)
    standard = (raw - raw.mean(-1, keepdim=True)) / raw.var(-1, keepdim=True, correction=0).add(1e-5).sqrt()
    expected = (standard * generator.scale.mT + generator.mean.mT) * generator.kernel_std
    torch.testing.assert_close(generator().flatten(2), expected, atol=1e-6, rtol=1e-5)


def test_decorrelated_features_span_the_same_kernels_and_are_all_but_the_faintest_alike():
    torch.manual_seed(0)
    generator = CoordinateMLP((8, 4, 5, 5), dtype=torch.float64)
    features = generator.trunk(generator.grid)
    features = features - features.mean(0)
    decorrelated = features @ decorrelation(features)
    assert torch.linalg.matrix_rank(torch.cat([features, decorrelated], dim=1)) == torch.linalg.matrix_rank(features)
    covariance = features.T @ features / 25
    strengths = torch.linalg.eigvalsh(covariance)
    ridge = 0.03 * covariance.diagonal().mean() + 1e-5
    # the same up to a rotation: every direction shrinks from strength s to s / (s + ridge)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(decorrelated.T @ decorrelated / 25), strengths / (strengths + ridge), rtol=1e-6, atol=1e-9
    )


def test_kernels_are_the_same_in_training_and_evaluation_unless_batchnorm():
    torch.manual_seed(0)
    for norm, same in (("decorrelated", True), ("stateless", True), ("none", True), ("batchnorm", False)):
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
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) in 2 groups does not fit an input \(1, 2, 8\)"):
        convolution(torch.zeros(1, 2, 8), torch.zeros(2, 2, 3), groups=2)
    with pytest.raises(ValueError, match=r"makes kernels \(8, 3, 3, 3\), this layer needs \(8, 3, 5, 5\)"):
        HyperConv2d(3, 8, 5, generator=lambda shape, **factory: CoordinateMLP((8, 3, 3, 3), **factory))
    transposed = HyperConvTranspose2d(2, 2, 3, generator=PER_SAMPLE["dense"])
    with pytest.raises(ValueError, match=r"tensor \(1, 3\); pass a context as context="):
        transposed(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"must be 2 numbers, got \(4, 4, 4\)"):
        transposed(torch.zeros(1, 2, 4, 4), (4, 4, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"out of reach: it must lie between \[6, 6\] and \[6, 6\]"):
        transposed(torch.zeros(1, 2, 4, 4), (9, 6), torch.zeros(1, 3))


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
    bias = torch.randn(outputs, dtype=torch.float64)
    for convolve in (functional.paired_convolution, partial(F.conv2d, padding="same")):
        leaves = [images.clone().requires_grad_(), kernel.clone().requires_grad_(), bias.clone().requires_grad_()]
        output = convolve(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture
def measured(monkeypatch):
    """As on a processor for which all ways were measured."""
    monkeypatch.setattr(plan, "machine", lambda device_type: plan.PROCESSORS["AVX512"])


def wide_layer(**settings):
    """With images for which filters applied one by one are faster than the kernel built."""
    torch.manual_seed(0)
    layer = HyperConv2d(256, 256, 5, padding=2, generator=partial(CoordinateMLP, hidden=(8, 4), **settings))
    return layer, torch.randn(4, 256, 4, 4).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("context_dim", (None, 3))
def test_a_wide_layer_never_builds_its_kernel_and_equals_torch(context_dim, measured, monkeypatch):
    layer, images = wide_layer(context_dim=context_dim)
    context = None if context_dim is None else torch.randn(context_dim)
    kernel = layer.generator(context)
    expected = F.conv2d(images, kernel, layer.bias, padding=2)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(expected.square().sum(), parameters)
    monkeypatch.setattr(CoordinateMLP, "generate", lambda *_: pytest.fail("the kernel was built"))
    output = layer(images, context)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(output.square().sum(), parameters), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_a_wide_layer_builds_its_kernel_where_the_other_way_is_slower_or_unmeasured(monkeypatch):
    layer, images = wide_layer()
    monkeypatch.setattr(functional, "decomposed_convolution", lambda *_, **__: pytest.fail("not built"))
    grouped = HyperConv2d(256, 256, 5, padding=2, groups=2, generator=partial(CoordinateMLP, hidden=(8, 4)))
    for run in (
        lambda: layer(images.contiguous()),
        lambda: layer(images[0]),
        lambda: HyperConv2d(32, 32, 3)(images[:, :32].contiguous(memory_format=torch.channels_last)),
        lambda: copy.deepcopy(layer).double()(images.double()),
        lambda: grouped(images),
        lambda: torch.compile(layer, backend="eager")(images),
    ):
        run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(images)
    with torch.no_grad(), cached(layer):
        layer(images)


def test_wide_layers_generated_together_and_apart_agree(measured, monkeypatch):
    layer, images = wide_layer()
    other = copy.deepcopy(layer)
    other.reset_parameters()
    network = nn.Sequential(layer, other)
    expected = bake(network)(images)
    taken, run = [], functional.decomposed_convolution
    monkeypatch.setattr(functional, "decomposed_convolution", lambda *a, **o: taken.append(1) or run(*a, **o))
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(GeneratedTogether(*network)(images), expected, rtol=1e-4, atol=1e-5)
    assert len(taken) == 4


def test_an_encoded_context_and_another_size_take_the_same_way_to_the_same_result(measured):
    layer, images = wide_layer(context_dim=2, encode_context="magnitude-invariant")
    context = torch.tensor([0.2, 0.9])
    for each, padding in ((layer, 2), (resize(layer, 7), 3)):
        parts, shape = each.generator.parts(per_sample=False), each.generator.kernel_shape
        assert plan.way_for_all(parts, images, shape, padding=padding) is Way.FILTERED_IN_ONE_PRODUCT
        expected = F.conv2d(images, each.generator(context), each.bias, padding=padding)
        torch.testing.assert_close(each(images, context), expected, rtol=1e-4, atol=1e-5)


def test_hooks_on_a_wide_layers_generator_are_run():
    layer, images = wide_layer()
    layer.generator.register_forward_hook(lambda generator, arguments, kernel: torch.zeros_like(kernel))
    torch.testing.assert_close(layer(images), layer.bias[:, None, None].expand(4, 256, 4, 4))


def test_filtering_is_planned_by_the_positions_that_come_out_and_no_more_than_were_measured(measured):
    small = torch.zeros(16, 256, 14, 14).contiguous(memory_format=torch.channels_last)
    large = small.repeat(1, 1, 4, 4).contiguous(memory_format=torch.channels_last)

    def filtered(images, size=7, padding="same", **settings):
        shape = (256, 256, size, size)
        way = plan.way_for_all(5, images, shape, padding=padding, **settings)
        return way in (Way.FILTERED, Way.FILTERED_IN_ONE_PRODUCT)

    assert filtered(small)
    assert not filtered(large)
    assert filtered(large, stride=4, padding=3)
    assert filtered(large, padding="valid", dilation=(7, 7))
    assert not filtered(small, size=9)
    assert not filtered(small, groups=2)


@pytest.mark.parametrize(
    ("channels", "side", "size", "padding", "few"),
    (
        (64, 7, 3, 1, True),
        (196, 14, 5, 2, True),
        (48, 7, 3, 1, False),
        (81, 9, 3, 1, False),
        (196, 14, 7, 60, False),
        (256, 15, 9, 4, False),
    ),
)
def test_one_product_is_planned_for_small_images_of_many_channels(channels, side, size, padding, few):
    images = torch.zeros(1, channels, side, side)
    pads = (padding, padding)
    known = plan.PROCESSORS["AVX512"].decomposition
    assert plan.has_few_pixels(known, images, (3, channels, size, size), (1, 1), pads, (1, 1)) is few


@pytest.mark.parametrize(
    ("channels", "side", "size", "stride", "avx512", "avx2"),
    (
        ((64, 64), 14, 3, 1, Way.BUILT, Way.BUILT),
        ((64, 64), 14, 5, 1, Way.BUILT, Way.FILTERED),
        ((64, 64), 14, 7, 1, Way.FILTERED, Way.FILTERED),
        ((32, 32), 4, 7, 1, Way.BUILT, Way.FILTERED_IN_ONE_PRODUCT),
        ((32, 32), 28, 7, 1, Way.BUILT, Way.BUILT),
        ((256, 256), 7, 5, 1, Way.FILTERED_IN_ONE_PRODUCT, Way.FILTERED_IN_ONE_PRODUCT),
        ((128, 256), 14, 7, 2, Way.FILTERED, Way.FILTERED_IN_ONE_PRODUCT),
    ),
)
def test_what_was_fastest_on_a_processor_is_planned_there(channels, side, size, stride, avx512, avx2, monkeypatch):
    inputs, outputs = channels
    images = torch.zeros(16, inputs, side, side).contiguous(memory_format=torch.channels_last)
    for name, fastest in (("AVX512", avx512), ("AVX2", avx2)):
        monkeypatch.setattr(plan, "machine", lambda device_type, name=name: plan.PROCESSORS[name])
        shape = (outputs, inputs, size, size)
        assert plan.way_for_all(5, images, shape, stride=stride, padding=size // 2) is fastest, name


def test_filtering_is_planned_by_the_way_that_images_are_filtered(measured):
    images = torch.zeros(16, 64, 7, 7).contiguous(memory_format=torch.channels_last)
    way = partial(plan.way_for_all, 5, padding="same")
    assert way(images, (48, 64, 7, 7)) is Way.FILTERED_IN_ONE_PRODUCT
    assert way(images, (16, 64, 7, 7)) is Way.BUILT
    # as many numbers in as many output positions, but more pixels than channels
    assert way(images.reshape(4, 64, 14, 14).contiguous(memory_format=torch.channels_last), (48, 64, 7, 7)) is Way.BUILT


def test_on_a_machine_that_nothing_is_known_of_kernels_are_built():
    for device in ("meta", "cuda"):
        images = SimpleNamespace(device=SimpleNamespace(type=device), shape=(64, 2))
        assert plan.way_per_sample(2, images, 1) is Way.BUILT


def test_narrow_channels_last_images_take_the_paired_path(measured, monkeypatch):
    taken = []
    paired = functional.paired_convolution
    monkeypatch.setattr(functional, "paired_convolution", lambda *a: taken.append(a[0].shape) or paired(*a))
    digit_classifier()[1:](torch.rand(2, 8, 28, 28).contiguous(memory_format=torch.channels_last))
    layer = HyperConv2d(8, 8, 5, padding="same")
    layer(torch.rand(2, 8, 8, 8))
    layer(torch.rand(2, 8, 8, 7).contiguous(memory_format=torch.channels_last))
    assert set(taken) == {(2, 8, 28, 28)} and len(taken) == 4


@pytest.mark.parametrize("bias", (False, True))
def test_stacked_networks_run_in_one_vmap(bias, measured):
    torch.manual_seed(0)
    networks = [
        nn.Sequential(*(HyperConv2d(*channels, 5, padding="same", bias=bias) for channels in ((2, 8), (8, 4))))
        for _ in range(3)
    ]
    images = torch.randn(2, 2, 6, 8).contiguous(memory_format=torch.channels_last)
    parameters, buffers = torch.func.stack_module_state(networks)

    def run(*state):
        return torch.func.functional_call(networks[0], state, (images,))

    outputs = torch.vmap(run)(parameters, buffers)
    gradients = torch.vmap(torch.func.grad(lambda *state: run(*state).square().mean()))(parameters, buffers)
    for number, network in enumerate(networks):
        output = network(images)
        torch.testing.assert_close(outputs[number], output)
        for name, parameter in network.named_parameters():
            (expected,) = torch.autograd.grad(output.square().mean(), parameter, retain_graph=True)
            torch.testing.assert_close(gradients[name][number], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_mixed_precision_rounds_the_kernel_and_nothing_before_it(dtype):
    layer = HyperConv2d(4, 4, 5)
    with torch.autocast("cpu", dtype):
        kernel = layer.weight
        output = layer(torch.randn(1, 4, 8, 8))
    assert output.dtype == dtype
    assert torch.equal(kernel, layer.weight)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_layers_run_in_every_precision(dtype):
    torch.manual_seed(0)
    for name, generator in SHARED.items():
        if name == "started":
            continue
        layer = HyperConv2d(4, 4, 3, padding=1, generator=generator)
        images = torch.randn(2, 4, 6, 6)
        expected = layer(images)
        output = layer.to(dtype)(images.to(dtype))
        assert output.dtype == dtype
        coarse = 0.1 if dtype == torch.bfloat16 else 0.02
        assert (output.float() - expected).abs().max() < coarse * expected.abs().max(), name
        output.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters()), name


def test_half_precision_holds_the_variance_of_wide_kernels():
    torch.manual_seed(0)
    for norm in ("decorrelated", "stateless"):
        generator = CoordinateMLP((2, 8192, 3, 3), norm=norm)
        expected = generator()
        assert (generator.half()().float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_per_sample_layers_keep_the_type_of_autocast():
    contexts = torch.randn(2, 3)
    for bias in (True, False, "generated"):
        layer = HyperConv2d(4, 4, 3, bias=bias, generator=PER_SAMPLE["dense"])
        linear = HyperLinear(4, 4, bias=bias, generator=PER_SAMPLE["dense"])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(2, 4, 8, 8), contexts).dtype == torch.bfloat16
            assert linear(torch.randn(2, 4), contexts).dtype == torch.bfloat16


def test_an_empty_batch_gives_an_empty_batch():
    for name, generator in PER_SAMPLE.items():
        for layer, shape in (
            (HyperConv2d(4, 6, 3, stride=2, generator=generator), (0, 6, 3, 3)),
            (HyperConvTranspose2d(4, 6, 3, stride=2, generator=generator), (0, 6, 17, 17)),
        ):
            assert layer(torch.zeros(0, 4, 8, 8), context=torch.zeros(0, 3)).shape == shape, name
    assert HyperLinear(4, 6, generator=PER_SAMPLE["dense"])(torch.zeros(0, 4), torch.zeros(0, 3)).shape == (0, 6)


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_gradients_of_layers_with_a_context_a_sample_are_right(name):
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "generator": PER_SAMPLE[name]}
    layers = [
        (HyperConv2d(2, 2, 2, **double), {}),
        (HyperConvTranspose2d(2, 2, 2, stride=2, **double), {"output_size": None}),
    ]
    if "coordinate" not in name:
        layers.append((HyperLinear(3, 2, **double), {}))
    for layer, more in layers:
        context = context_for(layer.generator, 2, dtype=torch.float64).requires_grad_()
        images = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
        names, values = zip(*((n, p) for n, p in layer.named_parameters() if p.requires_grad), strict=True)

        def run(images, context, *values, layer=layer, names=names, more=more):
            arguments = {**more, "context": context}
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (images,), arguments)

        assert torch.autograd.gradcheck(run, (images, context, *values), fast_mode=True), layer


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.data())
def test_shapes_are_those_of_torch(data):
    dims = data.draw(st.integers(1, 3))
    groups = data.draw(st.integers(1, 3))
    inputs, outputs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2))
    per_axis = [data.draw(st.tuples(*(st.integers(1, 3),) * 4, st.integers(0, 2))) for _ in range(dims)]
    kernel, stride, dilation, extra, padding = map(tuple, zip(*per_axis, strict=True))
    size = [d * (k - 1) + e for k, d, e in zip(kernel, dilation, extra, strict=True)]
    arguments = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    images = torch.randn(data.draw(st.integers(0, 2)), inputs, *size)
    hyper, plain = (kinds[dims](inputs, outputs, kernel, **arguments) for kinds in (HYPER, PLAIN))
    assert hyper(images).shape == plain(images).shape
    transposed = {**arguments, "padding": 0}
    hyper, plain = (
        kinds[dims](inputs, outputs, kernel, **transposed) for kinds in (HYPER_TRANSPOSED, PLAIN_TRANSPOSED)
    )
    assert hyper(images).shape == plain(images).shape


def test_runs_on_the_meta_device():
    layer = HyperConv2d(3, 4, 3, device="meta")
    assert layer(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 4, 6, 6)


def test_loading_weights_fills_a_grid_that_was_never_made():
    torch.manual_seed(0)
    trained = HyperConv2d(3, 4, 3)
    for assign in (False, True):
        layer = HyperConv2d(3, 4, 3, device="meta")
        if not assign:
            layer.to_empty(device="cpu")
        layer.load_state_dict(trained.state_dict(), assign=assign)
        assert torch.equal(layer.weight, trained.weight)


def test_materialises_from_the_meta_device():
    layer = HyperConv2d(4, 4, 5, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.generator.grid, kernel_grid((5, 5)))
    assert layer.weight.isfinite().all()


def test_generating_together_changes_nothing_but_time():
    torch.manual_seed(0)
    layers = [
        HyperConv2d(3, 4, 5, padding=2),
        HyperConv2d(4, 6, 5, padding=2),
        HyperConv2d(6, 4, 3, padding=1),
        HyperConv2d(4, 4, 5, padding=2, generator=partial(CoordinateMLP, norm="none")),
        HyperConv2d(4, 4, 5, padding=2, generator=partial(CoordinateMLP, norm="stateless")),
        HyperConv2d(4, 4, 5, padding=2, generator=partial(CoordinateMLP, norm="stateless")),
        HyperConv2d(4, 4, 5, padding=2, generator=partial(CoordinateMLP, encoding="fourier")),
        HyperConv2d(4, 4, 5, padding=2, generator=partial(CoordinateMLP, encoding="fourier")),
        ResidualBlock(4),
    ]
    layers.append(resize(HyperConv2d(4, 4, 3, padding=1), 5))
    together, apart = GeneratedTogether(*layers), nn.Sequential(*layers)
    images = torch.randn(2, 3, 8, 8)
    results = []
    for network in (together, apart):
        output = network(images)
        results.append((output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
    assert torch.equal(copy.deepcopy(together)(images), together(images))
    with pytest.raises(ValueError, match="3 input channels"):
        together(torch.randn(2, 5, 8, 8))


def test_skip_init_leaves_no_grid_uninitialised():
    layer = nn.utils.skip_init(HyperConv2d, 4, 4, 5)
    assert torch.equal(layer.generator.grid, kernel_grid((5, 5)))


@pytest.mark.parametrize("scale", (1, 1e2, 1e6))
@pytest.mark.parametrize("size", ((2,), (1, 2), (2, 2), (3,)))
def test_kernels_of_few_taps_are_standardised_whatever_the_features_size(size, scale):
    torch.manual_seed(0)
    generator = CoordinateMLP((16, 16, *size), norm="stateless")
    with torch.no_grad():
        generator.trunk[-2].weight.mul_(scale)
        kernels = generator().flatten(2) / generator.kernel_std
        expected = generator.double()().flatten(2) / generator.kernel_std
    assert kernels.isfinite().all()
    assert (kernels - expected).abs().max() < 0.01


def test_one_tap_kernels_lie_in_memory_as_torch_takes_them():
    for channels in (2, 4):
        kernel = HyperConv2d(channels, channels, 1, generator=partial(CoordinateMLP, hidden=(4,))).weight
        assert kernel.stride() == (channels, 1, 1, 1)
        images = torch.randn(2, channels, 4, 4, requires_grad=True)
        F.conv2d(images, kernel, stride=2).sum().backward()
    assert PER_SAMPLE["coordinate"]((3, 2, 1, 1))(torch.randn(5, 3)).shape == (5, 3, 2, 1, 1)


def test_numpy_integers_are_sizes():
    three, two = np.int64(3), np.int32(2)
    layer = HyperConv2d(two, two, three, stride=two, padding=np.int64(1), dilation=two, groups=two)
    plain = nn.Conv2d(2, 2, 3, stride=2, padding=1, dilation=2, groups=2)
    assert repr(layer).split(", kernel_size")[1].splitlines()[0] == (
        "=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, bias=True, padding_mode=zeros"
    )
    assert layer(torch.zeros(1, 2, 9, 9)).shape == plain(torch.zeros(1, 2, 9, 9)).shape
    assert HyperLinear(two, three)(torch.zeros(1, 2)).shape == (1, 3)


def test_a_generated_bias_is_shown():
    assert "bias='generated'" in repr(HyperLinear(2, 3, bias="generated"))
    assert "bias=False" in repr(HyperLinear(2, 3, bias=False))


def test_an_unbatched_volume_that_lies_as_images_do_is_a_volume():
    layer = HyperConv3d(4, 4, 3)
    volume = torch.randn(4, 5, 6, 7).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(volume), F.conv3d(volume.contiguous(), layer.weight.contiguous(), layer.bias))


def test_complex_coordinates_are_refused_in_words():
    with pytest.raises(ValueError, match=r"makes real kernels, not torch\.complex64"):
        HyperConv2d(2, 2, 3, dtype=torch.complex64)

"""Every backend against the loop, and every operator against its definition."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperconv import (
    contracted_convolution,
    contracted_linear,
    convolution_per_sample,
    decomposed_convolution,
    functional,
    linear_per_sample,
    local_filter,
    patch_convolution,
)

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def per_sample_cases(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 4)) for _ in range(dims)]
    dilation = [draw(st.integers(1, 2)) for _ in range(dims)]
    padding = draw(st.sampled_from(("same", "valid", "number")))
    if padding == "number":
        padding = [draw(st.integers(0, 2)) for _ in range(dims)]
    stride = [1] * dims if padding == "same" else [draw(st.integers(1, 3)) for _ in range(dims)]
    sizes = [d * (k - 1) + 1 + draw(st.integers(0, 4)) for d, k in zip(dilation, kernel, strict=True)]
    return draw(st.integers(1, 4)), inputs, outputs, groups, kernel, stride, padding, dilation, sizes


@settings(max_examples=150, deadline=None)
@given(per_sample_cases(), st.sampled_from(("none", "shared", "each")))
def test_a_kernel_a_sample_equals_a_convolution_a_sample(case, bias_kind):
    batch, inputs, outputs, groups, kernel, stride, padding, dilation, sizes = case
    dims = len(kernel)
    images = torch.randn(batch, inputs, *sizes, dtype=torch.float64)
    kernels = torch.randn(batch, outputs, inputs // groups, *kernel, dtype=torch.float64)
    biases = torch.randn(batch, outputs, dtype=torch.float64)
    bias = {"none": None, "shared": biases[0], "each": biases}[bias_kind]
    expected = torch.cat(
        [
            CONVOLUTION[dims](
                images[b : b + 1],
                kernels[b],
                None if bias is None else biases[0 if bias_kind == "shared" else b],
                stride,
                padding,
                dilation,
                groups,
            )
            for b in range(batch)
        ]
    )
    for backend in ("grouped", "unfold", "loop"):
        run = partial(convolution_per_sample, backend=backend)
        torch.testing.assert_close(run(images, kernels, bias, stride, padding, dilation, groups), expected)
    coefficients = torch.randn(batch, 3, dtype=torch.float64)
    basis = torch.randn(3, *kernels.shape[1:], dtype=torch.float64)
    built = torch.tensordot(coefficients, basis, dims=1)
    torch.testing.assert_close(
        contracted_convolution(images, coefficients, basis, bias, stride, padding, dilation, groups),
        convolution_per_sample(images, built, bias, stride, padding, dilation, groups, backend="loop"),
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 5), st.integers(1, 5))
def test_a_linear_map_a_sample_equals_a_map_a_sample(batch, between, inputs, outputs):
    rows = torch.randn(batch, *between, inputs)
    weights, biases = torch.randn(batch, outputs, inputs), torch.randn(batch, outputs)
    for bias in (None, biases[0], biases):
        expected = torch.stack(
            [F.linear(rows[b], weights[b], bias if bias is None or bias.dim() == 1 else bias[b]) for b in range(batch)]
        )
        for backend in ("bmm", "grouped", "loop"):
            output = linear_per_sample(rows, weights, bias, backend=backend)
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
            assert linear_per_sample(rows[:0], weights[:0], biases[:0], backend=backend).shape == (
                0,
                *expected.shape[1:],
            )
        coefficients, basis = torch.randn(batch, 4), torch.randn(4, outputs, inputs)
        built = torch.tensordot(coefficients, basis, dims=1)
        torch.testing.assert_close(
            contracted_linear(rows, coefficients, basis, bias),
            linear_per_sample(rows, built, bias),
            rtol=1e-5,
            atol=1e-5,
        )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_contracted_transposed_convolution_equals_the_kernels_built(data):
    dims, groups, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    inputs, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    stride = data.draw(st.integers(1, 3))
    settings = {
        "stride": stride,
        "padding": data.draw(st.integers(0, 1)),
        "output_padding": data.draw(st.integers(0, stride - 1)),
        "groups": groups,
        "dilation": data.draw(st.integers(1, 2)),
    }
    images = torch.randn(batch, inputs, *[3, 4, 2][:dims], dtype=torch.float64)
    coefficients = torch.randn(batch, 5, dtype=torch.float64)
    basis = torch.randn(5, inputs, outputs // groups, *[3, 2, 4][:dims], dtype=torch.float64)
    biases = torch.randn(batch, outputs, dtype=torch.float64)
    built = torch.tensordot(coefficients, basis, dims=1)
    for bias in (None, biases[0], biases):
        torch.testing.assert_close(
            functional.contracted_transposed_convolution(images, coefficients, basis, bias, **settings),
            functional.transposed_convolution_per_sample(images, built, bias, **settings),
        )


def test_layers_contract_where_that_is_cheaper(monkeypatch):
    from hyperconv import DenseGenerator, HyperConv2d, HyperConvTranspose2d, HyperLinear

    ways = [
        "contracted_convolution",
        "convolution_per_sample",
        "contracted_transposed_convolution",
        "transposed_convolution_per_sample",
        "contracted_linear",
        "linear_per_sample",
    ]
    taken = []
    for name in ways:
        run = getattr(functional, name)
        monkeypatch.setattr(functional, name, lambda *a, run=run, name=name, **o: taken.append(name) or run(*a, **o))
    contexts = torch.randn(64, 16)
    for kind, shapes in (
        (partial(HyperConv2d, 2, 2, 3, padding=1), ((64, 2, 2, 2), (64, 2, 28, 28))),
        (partial(HyperConvTranspose2d, 2, 2, 3, stride=2, padding=1), ((64, 2, 2, 2), (64, 2, 3, 3))),
        (partial(HyperLinear, 2, 2), ((64, 2), (64, 500, 2))),
    ):
        layer = kind(generator=partial(DenseGenerator, context_dim=16))
        for shape in shapes:
            inputs = torch.randn(shape)
            one_by_one = [layer(each, context=context) for each, context in zip(inputs, contexts, strict=True)]
            torch.testing.assert_close(layer(inputs, context=contexts), torch.stack(one_by_one), rtol=1e-5, atol=1e-5)
    assert taken == ways
    # to build few kernels costs less than to read the whole basis twice
    few = HyperConv2d(2, 2, 3, padding=1, generator=partial(DenseGenerator, context_dim=16))
    few(torch.randn(2, 2, 2, 2), context=contexts[:2])
    assert taken[len(ways) :] == ["convolution_per_sample"]


@settings(max_examples=60, deadline=None)
@given(per_sample_cases(), st.integers(1, 4), st.booleans())
def test_decomposed_convolution_equals_the_kernel_built(case, number, batched):
    batch, inputs, outputs, _, kernel, stride, padding, dilation, sizes = case
    images = torch.randn(*((batch,) if batched else ()), inputs, *sizes, dtype=torch.float64)
    filters = torch.randn(number, *kernel, dtype=torch.float64)
    mixing = torch.randn(outputs, number, inputs, dtype=torch.float64)
    built = torch.einsum("ofi,f...->oi...", mixing, filters)
    for bias, few in product((None, torch.randn(outputs, dtype=torch.float64)), (False, True)):
        settings = (stride, padding, dilation)
        output = decomposed_convolution(images, filters, mixing, bias, *settings, in_one_product=few)
        expected = CONVOLUTION[len(kernel)](images, built, bias, stride, padding, dilation)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("few", (False, True))
def test_decomposed_convolution_is_twice_differentiable(few):
    shapes = (2, 2, 4, 4), (2, 3, 3), (2, 2, 2)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    run = partial(decomposed_convolution, padding="same", in_one_product=few)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def unfolded_filter(images, filters, kernel, stride, dilation):
    dims = len(kernel)
    reaches = [each * (size - 1) for each, size in zip(dilation, kernel, strict=True)]
    patches = F.pad(images, [edge for reach in reversed(reaches) for edge in (reach // 2, reach - reach // 2)])
    for axis, reach in enumerate(reaches):
        patches = patches.unfold(2 + axis, reach + 1, stride[axis])[..., :: dilation[axis]]
    patches = patches.flatten(2 + dims).movedim(-1, 2)
    groups = filters.shape[1] // patches.shape[2]
    own = filters.unflatten(1, (groups, 1, -1))
    return (patches.unflatten(1, (groups, -1)) * own).sum(3).flatten(1, 2)


# sizes, kernel, stride, dilation, groups of 4 channels
LOCAL_FILTERS = [
    ((7,), (3,), (1,), (1,), 1),
    ((7,), (4,), (2,), (3,), 4),
    ((6, 5), (1, 1), (1, 1), (1, 1), 1),
    ((4, 3), (3, 3), (1, 1), (1, 1), 2),
    ((5, 4), (5, 2), (2, 3), (1, 2), 2),
    ((3, 3, 2), (2, 1, 3), (1, 2, 1), (1, 1, 2), 2),
]


def local_filter_case(sizes, kernel, stride, dilation, groups, batch=2):
    torch.manual_seed(0)
    places = [math.ceil(size / step) for size, step in zip(sizes, stride, strict=True)]
    images = torch.randn(batch, 4, *sizes, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(batch, groups * math.prod(kernel), *places, dtype=torch.float64, requires_grad=True)
    return images, filters


@pytest.mark.parametrize("case", [*LOCAL_FILTERS, ((12, 10), (9, 9), (1, 1), (1, 1), 1)])
def test_local_filter_is_its_definition_forward_and_backward(case):
    tensors, options = local_filter_case(*case), case[1:4]
    results = []
    for run in (local_filter, unfolded_filter):
        output = run(*tensors, *options)
        results.append((output, *torch.autograd.grad(output.pow(2).sum(), tensors)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", LOCAL_FILTERS)
def test_local_filter_is_differentiable_twice(case):
    tensors = local_filter_case(*case, batch=1)
    run = partial(local_filter, kernel_size=case[1], stride=case[2], dilation=case[3])
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("case", LOCAL_FILTERS)
def test_the_same_local_filter_everywhere_is_a_convolution(case):
    sizes, kernel, stride, dilation, groups = case
    images, filters = (each.detach() for each in local_filter_case(*case))
    shared = filters[:1, :, *(0,) * len(sizes)]
    output = local_filter(images, shared[..., *(None,) * len(sizes)].expand_as(filters), *case[1:4])
    weight = shared.view(groups, 1, *kernel).repeat_interleave(4 // groups, dim=0)
    everywhere = CONVOLUTION[len(sizes)](images, weight, padding="same", dilation=dilation, groups=4)
    torch.testing.assert_close(output, everywhere[(..., *(slice(None, None, step) for step in stride))])


def test_local_filter_of_an_enlarged_image_is_carafe():
    torch.manual_seed(0)
    images, filters = torch.randn(2, 4, 3, 5), torch.randn(2, 2 * 9, 6, 10)
    output = local_filter(F.interpolate(images, scale_factor=2.0), filters, 3, dilation=2)
    padded = F.pad(images, (1, 1, 1, 1))
    for row, column, channel in product(range(6), range(10), range(4)):
        around = padded[:, channel, row // 2 : row // 2 + 3, column // 2 : column // 2 + 3].flatten(1)
        own = filters.unflatten(1, (2, 9))[:, channel // 2, :, row, column]
        torch.testing.assert_close(output[:, channel, row, column], (around * own).sum(1))


def test_local_filter_within_torch_func_is_that_of_each():
    torch.manual_seed(0)
    images, filters = torch.randn(3, 2, 4, 5, 6), torch.randn(2, 18, 5, 6)
    run = partial(local_filter, kernel_size=3)
    each = torch.stack([run(own, filters) for own in images])
    torch.testing.assert_close(torch.func.vmap(run, (0, None))(images, filters), each)

    def of_filters(images, filters):
        return torch.func.grad(lambda filters: run(images, filters).square().sum())(filters)

    each = torch.stack([of_filters(own, filters) for own in images])
    torch.testing.assert_close(torch.func.vmap(of_filters, (0, None))(images, filters), each)


def test_local_filters_made_under_autocast_keep_the_type_of_the_image():
    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 6, requires_grad=True)
    make = torch.nn.Conv2d(4, 9, 3, padding=1)
    results = []
    for mixed in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            filters = make(images)
            output = local_filter(images, filters, 3)
        assert filters.dtype == (torch.bfloat16 if mixed else torch.float32)
        assert output.dtype == torch.float32
        results.append((output, *torch.autograd.grad(output.square().mean(), (images, make.weight))))
    for rounded, exact in zip(*results, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)


def test_local_filters_of_no_samples_or_positions():
    assert local_filter(torch.zeros(0, 4, 5), torch.zeros(0, 6, 5), 3).shape == (0, 4, 5)
    assert local_filter(torch.zeros(2, 4, 0, 3), torch.zeros(2, 9, 0, 2), 3, stride=2).shape == (2, 4, 0, 2)


def test_patches_see_their_neighbours():
    torch.manual_seed(0)
    images, kernel = torch.randn(2, 3, 8, 12), torch.randn(5, 3, 3, 3)
    same_everywhere = kernel.expand(2, 2, 3, -1, -1, -1, -1)
    torch.testing.assert_close(patch_convolution(images, same_everywhere), F.conv2d(images, kernel, padding=1))
    kernels, biases = torch.randn(2, 2, 3, 5, 3, 3, 3), torch.randn(2, 2, 3, 5)
    for bias in (None, biases, biases[0, 0, 0]):
        output = patch_convolution(images, kernels, bias)
        for batch, row, column in ((0, 0, 0), (1, 1, 2), (0, 1, 1)):
            whole = F.conv2d(images[batch], kernels[batch, row, column], padding=1)
            own = bias if bias is None or bias.dim() == 1 else bias[batch, row, column]
            if own is not None:
                whole = whole + own[:, None, None]
            tile = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
            torch.testing.assert_close(output[batch][:, *tile], whole[:, *tile])


NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def patch_reference(images, kernels, bias, groups, mode):
    """Pixel after pixel: each one's surroundings times the kernel of its patch."""
    batch, rows, columns, outputs, inputs, *size = kernels.shape
    height, width = images.shape[2:]
    padded = np.pad(images.numpy(), [(0, 0)] * 2 + [(each // 2,) * 2 for each in size], mode)
    found = np.zeros((batch, outputs, height, width))
    for sample, row, column in np.ndindex(batch, height, width):
        place = row * rows // height, column * columns // width
        around = padded[sample, :, row : row + size[0], column : column + size[1]]
        own = kernels[sample][place].numpy().reshape(groups, outputs // groups, inputs, *size)
        product = np.einsum("goihw,gihw->go", own, around.reshape(groups, inputs, *size)).ravel()
        own_bias = 0 if bias is None else (bias if bias.dim() == 1 else bias[sample][place]).numpy()
        found[sample, :, row, column] = product + own_bias
    return torch.from_numpy(found)


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize(("size", "groups"), [((1, 1), 1), ((3, 5), 2), ((5, 3), 4)])
@pytest.mark.parametrize("backend", ("grouped", "unfold", "loop"))
def test_a_kernel_a_patch_is_the_kernel_of_all_its_pixels(mode, size, groups, backend):
    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 9, dtype=torch.float64)
    kernels = torch.randn(2, 2, 3, 8, 4 // groups, *size, dtype=torch.float64)
    biases = torch.randn(2, 2, 3, 8, dtype=torch.float64)
    for bias in (None, biases, biases[0, 0, 0]):
        output = patch_convolution(images, kernels, bias, groups, padding_mode=mode, backend=backend)
        torch.testing.assert_close(output, patch_reference(images, kernels, bias, groups, NUMPY_MODES[mode]))


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("backend", ("grouped", "unfold", "loop"))
def test_gradients_of_a_kernel_a_patch(mode, backend):
    torch.manual_seed(0)
    shapes = (1, 2, 4, 2), (1, 2, 1, 2, 1, 3, 3), (1, 2, 1, 2)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(images, kernels, bias):
        return patch_convolution(images, kernels, bias, 2, padding_mode=mode, backend=backend)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("batch", (0, 2))
def test_patches_are_cut_with_their_surroundings_and_joined_again(batch):
    images = torch.arange(batch * 3 * 6 * 8.0).view(batch, 3, 6, 8)
    patches = functional.to_patches(images, 3, 2, (1, 2), "reflect")
    assert patches.shape == (6 * batch, 3, 4, 8)
    assert torch.equal(functional.from_patches(patches[:, :, 1:-1, 2:-2], 3, 2), images)
    if batch:
        extended = F.pad(images, (2, 2, 1, 1), mode="reflect")
        assert torch.equal(patches[6 + 3], extended[1, :, 2:6, 4:12])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: convolution_per_sample(z(2, 3, 8, 8), z(3, 4, 3, 3, 3)), "3 kernels for 2 samples"),
        (lambda z: convolution_per_sample(z(2, 3, 8, 8), z(2, 4, 2, 3, 3)), "2 input channels .* an input of 3"),
        (lambda z: convolution_per_sample(z(3, 8, 8), z(2, 4, 2, 3, 3)), r"\(2, 4, 2, 3, 3\) and \(3, 8, 8\)"),
        (
            lambda z: convolution_per_sample(z(2, 4, 8, 8), z(2, 3, 2, 3, 3), groups=2),
            "groups 2 do not divide 3 output",
        ),
        (lambda z: convolution_per_sample(z(2, 3, 8), z(2, 4, 3, 3), padding="same", stride=2), "needs stride 1, got"),
        (lambda z: convolution_per_sample(z(2, 3, 8), z(2, 4, 3, 3), padding="full"), "'valid'; got 'full'"),
        (
            lambda z: convolution_per_sample(z(2, 3, 8), z(2, 4, 3, 3), backend="fft"),
            "grouped, unfold, loop; got 'fft'",
        ),
        (
            lambda z: linear_per_sample(z(2, 3), z(2, 4, 3), backend="unfold"),
            "bmm, grouped, loop; got 'unfold'",
        ),
        (lambda z: convolution_per_sample(z(2, 3, 2), z(2, 4, 3, 3), backend="unfold"), "reaches over 3 .* 2 padded"),
        (
            lambda z: convolution_per_sample(z(2, 3, 8), z(2, 4, 3, 3), z(5)),
            r"\(5,\) for 2 samples and 4 output",
        ),
        (
            lambda z: functional.transposed_convolution_per_sample(z(2, 3, 8), z(2, 3, 4, 3), groups=2),
            "do not divide 3",
        ),
        (lambda z: functional.transposed_convolution(z(2, 3), z(3, 4)), r"got \(3, 4\)"),
        (lambda z: contracted_convolution(z(2, 3, 8), z(3, 5), z(5, 4, 3, 3)), r"2 samples and 5 kernels .* \(3, 5\)"),
        (
            lambda z: functional.contracted_transposed_convolution(z(2, 3), z(2, 5), z(5, 3, 4)),
            r"needs shape \(J, I, O/groups, \*k\) .* \(5, 3, 4\)",
        ),
        (
            lambda z: functional.contracted_transposed_convolution(z(2, 3, 8), z(2, 5), z(5, 4, 3, 3)),
            r"basis \(5, 4, 3, 3\) in 1 groups does not fit an input \(2, 3, 8\)",
        ),
        (
            lambda z: functional.contracted_transposed_convolution(z(2, 3, 8), z(2, 5), z(5, 3, 3, 3), groups=2),
            r"basis \(5, 3, 3, 3\) in 2 groups",
        ),
        (
            lambda z: functional.contracted_transposed_convolution(z(2, 3, 8), z(2, 5), z(5, 3, 2, 3), z(5)),
            r"\(5,\) for 2 samples and 2 output",
        ),
        (lambda z: contracted_convolution(z(2, 3), z(2, 5), z(5, 4, 3)), r"basis needs shape .* \(5, 4, 3\)"),
        (lambda z: convolution_per_sample(z(1, 3, 8), z(1, 4, 3, 3), z(5, 4)), r"\(5, 4\) for 1 samples and 4 output"),
        (lambda z: contracted_convolution(z(2, 3, 8), z(2, 5), z(5, 4, 2, 3)), r"does not fit an input \(2, 3, 8\)"),
        (lambda z: contracted_linear(z(2, 3), z(2, 5), z(5, 1, 3), z(7)), r"\(7,\) for 2 samples and 1 output"),
        (lambda z: linear_per_sample(z(2, 3), z(2, 4, 3), z(3)), r"\(3,\) for 2 samples and 4 output"),
        (lambda z: contracted_linear(z(2, 3), z(2, 4), z(5, 4, 3)), r"2 samples and 5 maps .* \(2, 4\)"),
        (lambda z: contracted_linear(z(2, 3), z(2, 5), z(5, 4, 2)), r"\(5, 4, 2\) does not fit an input \(2, 3\)"),
        (lambda z: linear_per_sample(z(2, 3), z(2, 4, 5)), r"got \(2, 4, 5\) for \(2, 3\)"),
        (lambda z: decomposed_convolution(z(2, 3, 8), z(5, 3), z(4, 2, 3)), r"got \(5, 3\) and \(4, 2, 3\)"),
        (lambda z: decomposed_convolution(z(2, 3, 8), z(0, 3), z(4, 0, 3)), r"got \(0, 3\) and \(4, 0, 3\)"),
        (lambda z: decomposed_convolution(z(2, 3, 8), z(5, 3), z(4, 5, 3), z(3)), r"\(3,\) for 4 output channels"),
        (lambda z: decomposed_convolution(z(2, 3, 8), z(5), z(4, 5, 3)), r"got \(5,\) and \(4, 5, 3\)"),
        (lambda z: decomposed_convolution(z(2, 3, 8), z(5, 3), z(4, 5, 2)), r"\(4, 5, 2\) do not fit .* \(2, 3, 8\)"),
        (
            lambda z: local_filter(z(2, 3, 8, 8), z(2, 9, 8, 8), 4),
            r"4x4 need filters \(2, 16, 8, 8\), .* \(2, 9, 8, 8\)",
        ),
        (lambda z: local_filter(z(2, 3, 8, 8), z(2, 18, 8, 8), 3), r"divide 3 channels, got \(2, 18, 8, 8\)"),
        (lambda z: local_filter(z(2, 3, 8, 8), z(2, 9, 8, 8), 3, stride=2), r"need filters \(2, 9, 4, 4\)"),
        (lambda z: local_filter(z(2, 3, 8, 8), z(2, 9, 8, 8), (3, 0)), r"1 or more, got \(3, 0\), \(1, 1\) and"),
        (lambda z: local_filter(z(2, 3, 8), z(2, 9, 8, 8), 3), r"got \(2, 3, 8\) and \(2, 9, 8, 8\)"),
        (lambda z: local_filter(z(2, 3, 8, 8), z(2, 9, 8, 7), 3), r"need filters \(2, 9, 8, 8\), .* \(2, 9, 8, 7\)"),
        (lambda z: patch_convolution(z(1, 2, 8, 8), z(1, 3, 2, 5, 2, 3, 3)), "3x2 patches do not divide .* 8x8"),
        (lambda z: patch_convolution(z(1, 2, 8, 8), z(1, 2, 2, 5, 2, 4, 3)), r"odd, got \(4, 3\)"),
        (lambda z: patch_convolution(z(1, 2, 8, 8), z(1, 2, 2, 5, 3, 3, 3)), "do not fit an input"),
        (lambda z: patch_convolution(z(2, 8, 8), z(2, 2, 5, 3, 3, 3)), "needs an input"),
        (
            lambda z: patch_convolution(z(1, 4, 8, 8), z(1, 2, 2, 6, 3, 3, 3), groups=2),
            "in 2 groups do not fit an input",
        ),
        (
            lambda z: patch_convolution(z(1, 2, 1, 8), z(1, 1, 2, 5, 2, 3, 3), padding_mode="reflect"),
            "reflect.* no 1x1 pixels beyond 1x8 ones",
        ),
        (
            lambda z: patch_convolution(z(1, 2, 8, 8), z(1, 2, 2, 5, 2, 3, 3), padding_mode="mirror"),
            "one of zeros, reflect, replicate, circular; got .mirror",
        ),
        (lambda z: functional.to_patches(z(2, 8, 8), 2, 2), r"\(B, I, H, W\), got \(2, 8, 8\)"),
        (lambda z: functional.to_patches(z(1, 2, 8, 8), 0, 2), "0x2 patches do not divide"),
        (lambda z: functional.from_patches(z(5, 2, 4, 4), 2, 2), r"\(5, 2, 4, 4\) make no images of 2x2 patches"),
    ],
)
def test_bad_calls_name_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
@pytest.mark.parametrize("groups", (1, 2, 4))
@pytest.mark.parametrize("batch", (1, 2))
def test_gradients_are_those_of_the_loop_in_every_memory_layout(batch, groups, dtype):
    torch.manual_seed(0)
    images, kernels = torch.randn(batch, 8, 9, 9, dtype=dtype), torch.randn(batch, 8, 8 // groups, 3, 3, dtype=dtype)

    def laid(tensor, last):
        return tensor.movedim(-3, -1).contiguous().movedim(-1, -3) if last else tensor.clone()

    def results(images, kernels, backend):
        leaves = images.requires_grad_(), kernels.requires_grad_()
        output = convolution_per_sample(*leaves, padding=1, groups=groups, backend=backend)
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    expected = results(images.double(), kernels.double(), "loop")
    for layout in product((False, True), repeat=2):
        leaves = [laid(tensor.detach(), last) for tensor, last in zip((images, kernels), layout, strict=True)]
        for ours, theirs in zip(results(*leaves, "grouped"), expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ("bmm", "grouped", "loop"))
def test_linear_maps_of_no_rows(backend):
    output = linear_per_sample(torch.zeros(2, 0, 3), torch.zeros(2, 4, 3), torch.zeros(2, 4), backend=backend)
    assert output.shape == (2, 0, 4)

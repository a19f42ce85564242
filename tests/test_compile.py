"""torch.compile without graph breaks, and torch.export at any batch size: both compute what the module computes."""

import shutil
from functools import partial

import pytest
import torch
from generators import EVERY, PER_SAMPLE, SHARED, context_for
from torch import nn

from hyperconv import (
    GeneratedTogether,
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    HyperConvTranspose1d,
    HyperConvTranspose2d,
    HyperConvTranspose3d,
    HyperLinear,
    ResidualBlock,
    contracted_convolution,
    convolution_per_sample,
    decomposed_convolution,
    hyperize,
    linear_per_sample,
    local_filter,
    patch_convolution,
)
from hyperconv.functional import per_sample

CONVOLUTIONS = (
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    HyperConvTranspose1d,
    HyperConvTranspose2d,
    HyperConvTranspose3d,
)
STRIDED = {"stride": 2, "padding": 1, "groups": 2}


class WithContext(nn.Module):
    """A layer that is called with its context by position, whatever else it takes."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, input, context):
        return self.layer(input, context=context)


def layer_cases():
    for name, generator in EVERY.items():
        yield f"HyperConv2d, {name}", partial(HyperConv2d, 4, 6, 3, padding=1, generator=generator), (2, 4, 7, 7)
    for number, kind in enumerate(CONVOLUTIONS):
        for name in ("dense", ("embedding, shared", "coordinate")[number % 2]):
            make = partial(kind, 4, 6, 3, **STRIDED, generator=EVERY[name])
            yield f"{kind.__name__}, {name}, strided", make, (2, 4, *(5,) * kind.dims)
    for name in EVERY:
        if "coordinate" not in name and name != "started, shared":
            yield f"HyperLinear, {name}", partial(HyperLinear, 4, 6, generator=EVERY[name]), (2, 4)
    yield (
        "generated bias",
        partial(HyperConv2d, 4, 6, 3, bias="generated", padding_mode="circular", generator=PER_SAMPLE["dense"]),
        (2, 4, 7, 7),
    )


def cases():
    for name, make, shape in layer_cases():

        def prepare(make=make, shape=shape):
            layer = make()
            context = context_for(layer.generator, shape[0])
            return WithContext(layer), torch.randn(shape), context

        yield pytest.param(prepare, id=name)
    generator = SHARED["coordinate"]
    for name, make in {
        "GeneratedTogether": lambda: GeneratedTogether(*(HyperConv2d(4, 4, 3, generator=generator) for _ in range(2))),
        "ResidualBlock": lambda: ResidualBlock(4).to(memory_format=torch.channels_last),
    }.items():
        yield pytest.param(lambda make=make: (make(), torch.randn(2, 4, 8, 8)), id=name)
    for name, run, shapes in (
        ("local_filter", partial(local_filter, kernel_size=3), ((2, 3, 6, 7), (2, 9, 6, 7))),
        ("patch_convolution", patch_convolution, ((2, 3, 8, 12), (2, 2, 3, 5, 3, 3, 3), (2, 2, 3, 5))),
        *(
            (
                f"convolution_per_sample, {name}",
                partial(convolution_per_sample, backend=name),
                ((2, 3, 8), (2, 4, 3, 3)),
            )
            for name in per_sample._CONVOLUTION_BACKENDS
        ),
        *(
            (f"linear_per_sample, {name}", partial(linear_per_sample, backend=name), ((2, 3), (2, 4, 3), (2, 4)))
            for name in per_sample._LINEAR_BACKENDS
        ),
        ("contracted_convolution", contracted_convolution, ((2, 3, 8), (2, 5), (5, 4, 3, 3))),
        ("decomposed_convolution", decomposed_convolution, ((2, 3, 8), (5, 3), (4, 5, 3), (4,))),
    ):
        yield pytest.param(lambda run=run, shapes=shapes: (run, *map(torch.randn, shapes)), id=name)


@pytest.mark.parametrize("prepare", list(cases()))
def test_compiles_as_one_graph_forward_and_backward(prepare):
    torch.manual_seed(0)
    torch.compiler.reset()
    run, *inputs = prepare()
    leaves = [leaf.requires_grad_() for leaf in inputs if leaf is not None]
    if isinstance(run, nn.Module):
        leaves += run.parameters()
    results = []
    for each in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        output = each(*inputs)
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler for torch.compile on a CPU")
def test_generated_code_computes_the_same_forward_and_backward():
    torch.manual_seed(0)
    torch.compiler.reset()
    # no bias before statistics that take it away again: its gradient would be rounding errors
    first = HyperConv2d(3, 16, 5, stride=2, bias=False)
    network = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), HyperConv2d(16, 8, 3))
    network.to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    results = []
    for run in (network, torch.compile(network, fullgraph=True)):
        output = run(images)
        results.append((output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3 * ours.abs().max().item())


@pytest.mark.parametrize(
    "name", ("shared", "dense", "generated bias", "coordinate", "transposed", "linear", "hyperized")
)
def test_exports_at_any_batch_size(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    module = {
        "shared": HyperConv2d(4, 6, 3, padding="same", generator=SHARED["coordinate"]),
        "dense": HyperConv2d(4, 6, 3, generator=PER_SAMPLE["dense"]),
        "generated bias": HyperConv2d(4, 6, 3, bias="generated", generator=PER_SAMPLE["dense"]),
        "coordinate": HyperConv2d(4, 6, 3, generator=PER_SAMPLE["coordinate"]),
        "transposed": WithContext(HyperConvTranspose2d(4, 6, 3, generator=PER_SAMPLE["dense"])),
        "linear": HyperLinear(8, 6, bias="generated", generator=PER_SAMPLE["dense"]),
        "hyperized": hyperize(net, generator=SHARED["coordinate"]),
    }[name].eval()
    conditioned = name not in ("shared", "hyperized")

    def inputs(batch):
        return (torch.randn(batch, 4, 8, 8), *[torch.randn(batch, 3)] * conditioned)

    batch = torch.export.Dim("batch")
    dynamic_shapes = ({0: batch},) * (1 + conditioned)
    exported = torch.export.export(module, inputs(2), dynamic_shapes=dynamic_shapes).module()
    for size in (1, 5):
        arguments = inputs(size)
        torch.testing.assert_close(exported(*arguments), module(*arguments))


class Decomposed(nn.Module):
    def forward(self, images: torch.Tensor, filters: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
        return decomposed_convolution(images, filters, mixing, padding="same")


def test_decomposed_convolution_exports_for_images_of_any_number_and_size():
    operands = torch.randn(2, 3, 3), torch.randn(5, 2, 64)
    dynamic = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO), None, None)
    exported = torch.export.export(Decomposed(), (torch.randn(2, 64, 7, 7), *operands), dynamic_shapes=dynamic).module()
    for shape in ((1, 64, 7, 7), (5, 64, 20, 13)):
        images = torch.randn(shape)
        torch.testing.assert_close(exported(images, *operands), Decomposed()(images, *operands), rtol=1e-4, atol=1e-4)

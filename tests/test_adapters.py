"""Pretrained networks, frozen and shared, with thin changes that a context generates."""

import copy
import gc
import math
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyperconv import (
    DenseGenerator,
    LowRankGenerator,
    StartAtKernel,
    bake,
    conditional,
    cost,
    functional,
    hyperize,
    plan,
)
from hyperconv.layers import HyperLayer

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(40, 40, 5, padding=2), (40, 8)),
    "Conv2d": (lambda: nn.Conv2d(40, 48, 3, stride=2, padding_mode="reflect", padding=1, bias=False), (40, 7, 8)),
    "Conv2d, groups": (lambda: nn.Conv2d(128, 128, 3, groups=2, padding="same"), (128, 5, 6)),
    "Conv2d, one tap": (lambda: nn.Conv2d(16, 12, 1), (16, 5, 6)),
    "Conv2d, built": (lambda: nn.Conv2d(4, 6, 3), (4, 5, 6)),
    "Conv3d": (lambda: nn.Conv3d(36, 40, 3, dilation=2), (36, 6, 7, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(48, 40, 5, stride=2), (48, 8)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(128, 128, 3, stride=2, groups=2, output_padding=1), (128, 3, 4)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(40, 40, 2, bias=False), (40, 2, 3, 3)),
    "Linear": (lambda: nn.Linear(16, 12), (16,)),
    "Linear, of tokens": (lambda: nn.Linear(16, 12), (2, 7, 16)),
}
THIN = partial(LowRankGenerator, rank=3)


def adapted(network, **settings):
    """With adapters that have learned something."""
    told = conditional(network, 2, generator=THIN, keep_function="shared", **settings)
    with torch.no_grad():
        for parameter in told.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return told


@pytest.mark.parametrize("one", (False, True), ids=("a context a sample", "one context"))
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_functional_calls_a_sample(name, one):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double()
    told = adapted(layer)
    generator = told.network.generator
    groups = getattr(layer, "groups", 1)
    assert plan.factors_pay(generator.thin_rank(), generator.kernel_shape, groups) == ("built" not in name)
    inputs = torch.randn(4, *shape, dtype=torch.float64, requires_grad=True)
    contexts = torch.randn((2,) if one else (4, 2), dtype=torch.float64, requires_grad=True)

    def one_by_one():
        weights = [{"weight": generator(told.features(each))} for each in contexts.expand(4, 2)]
        calls = zip(weights, inputs.split(1), strict=True)
        return torch.cat([torch.func.functional_call(layer, weight, (input,)) for weight, input in calls])

    leaves = [inputs, contexts, *(each for each in told.parameters() if each.requires_grad)]
    expected, output = one_by_one(), told(inputs, context=contexts)
    assert (output - layer(inputs)).abs().max() > 0.01
    torch.testing.assert_close(output, expected)
    cotangent = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture
def net():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    return nn.Sequential(first, nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), last).eval()


def images():
    return torch.randn(5, 3, 8, 8)


def test_weights_are_shared_and_frozen_and_the_network_given_is_left_as_it_was(net):
    before, frozen = copy.deepcopy(net.state_dict()), [each.requires_grad for each in net.parameters()]
    told = conditional(net, 2, generator=THIN, keep_function="shared").train()
    addresses = {each.data_ptr() for each in net.parameters()}
    held = [each for each in told.parameters() if not each.requires_grad]
    assert {each.data_ptr() for each in held} == addresses
    learns = {name.split(".")[0] for name, each in told.named_parameters() if each.requires_grad}
    assert learns == {"trunk", "network"}
    heads = [part.generator.generator for part in told.modules() if isinstance(part, HyperLayer)]
    learning = {each for part in (told.trunk, *heads) for each in part.parameters()}
    assert {each for each in told.parameters() if each.requires_grad} == learning
    input, contexts = images(), torch.randn(5, 2)
    net.train()
    assert torch.equal(told(input, context=contexts[0]), net(input))
    net.load_state_dict(before)
    optimizer = torch.optim.AdamW(told.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        told(input, context=contexts).square().mean().backward()
        optimizer.step()
    assert (told(input, context=contexts) - net(input)).abs().max() > 1e-3
    net.load_state_dict(before)
    assert [each.requires_grad for each in net.parameters()] == frozen
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    for other in (copy.deepcopy(told), conditional(copy.deepcopy(net), 2, generator=THIN, keep_function="shared")):
        assert not addresses & {each.data_ptr() for each in other.parameters()}


def test_frozen_networks_are_adapted_too_in_place_and_without_a_context(net):
    net.requires_grad_(False)
    input = images()
    expected = net(input)
    made = hyperize(net, generator=THIN, keep_function="shared", inplace=True)
    assert made is net and torch.equal(made(input), expected)
    made(input).square().sum().backward()
    assert all((each.grad is not None) == each.requires_grad for each in made.parameters())


def test_zeroing_an_output_leaves_the_shared_kernel_alone():
    kernel = torch.randn(4, 3)
    started = StartAtKernel(LowRankGenerator((4, 3)), kernel, frozen=True)
    before = kernel.clone()
    started.zero_output_()
    assert torch.equal(kernel, before) and not started().any()


def test_baked_it_is_the_plain_network_of_one_context(net):
    told = adapted(net).eval()
    input, contexts = images(), torch.randn(5, 2)
    outputs = told(input, context=contexts)
    for index, context in enumerate(contexts):
        baked = bake(told, context, check=input)
        assert list(baked.state_dict()) == list(net.state_dict())
        torch.testing.assert_close(baked(input)[index], outputs[index], rtol=1e-4, atol=1e-5)
    assert baked[1].weight.data_ptr() != net[1].weight.data_ptr()


class Largest(TorchDispatchMode):
    """The largest tensor that is computed within, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return made


@pytest.mark.filterwarnings("ignore:generators that store more")
@pytest.mark.parametrize("contexts", ((2,), (6, 2)))
@pytest.mark.parametrize(
    ("layer", "input"),
    ((nn.Linear(64, 64), (6, 3, 64)), (nn.Conv2d(64, 64, 3, padding=1), (6, 64, 3, 3))),
    ids=("Linear", "Conv2d"),
)
def test_no_kernel_is_built_nor_its_gradient(layer, input, contexts):
    told = adapted(layer)
    leaf, context = torch.randn(input, requires_grad=True), torch.randn(contexts)
    heads = max(each.numel() for each in told.parameters() if each.requires_grad)
    with Largest() as largest:
        output = told(leaf, context=context)
        output.sum().backward()
    weights, samples = layer.weight.numel(), 1 if len(contexts) == 1 else 6
    assert leaf.grad is not None
    assert max(leaf.numel(), output.numel()) <= largest.numbers < 6 * weights
    kernels = cost(told, leaf, context=context)
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    assert kernels.loc[kernels.index[1], "memory"] == 4 * samples * 3 * (rows + columns) < 4 * samples * weights
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each.shape) or each, lambda each: each):
        told(leaf, context=context)
    assert (6, *layer.weight.shape) not in saved
    assert max(map(math.prod, saved)) <= max(heads, weights, 6 * leaf[0].numel())


def test_cost_tells_what_is_frozen_what_learns_and_what_a_call_makes(net):
    told = conditional(net, 2, hidden=(8, 4), generator=THIN, keep_function="shared")
    with pytest.warns(UserWarning, match=r"store more.*network\.0\.0"):
        table = cost(told, images(), context=torch.randn(5, 2))
    assert list(table.index) == ["trunk", "network.0.0", "network.1", "network.3.2", "sum"]
    thin = (4 + 1) * 3 * (64 + 32 * 9)
    assert table.loc["network.1", "learned"] == thin
    assert table.loc["network.1", "stored"] == thin + 64 * 32 * 9 + 64
    assert table.loc["network.1", "baked"] == 64 * 32 * 9 + 64
    assert table.loc["sum", "learned"] == sum(each.numel() for each in told.parameters() if each.requires_grad)
    assert table.loc["trunk"].tolist() == [2 * 8 + 8 + 8 * 4 + 4, 60, 0, 2 * 5 * (2 * 8 + 8 * 4), 0, 0]
    assert table.loc["network.3.2", "memory"] == 4 * 5 * 3 * (64 + 4)
    assert table.loc["network.3.2", "apply"] == 2 * 5 * (64 * 4 + 3 * (64 + 4))
    assert table.loc["network.0.0", "memory"] == 4 * 5 * 32 * 27


@pytest.mark.filterwarnings("ignore:generators that store more")
def test_cost_of_a_network_that_reads_a_weight_itself():
    attention = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    table = cost(adapted(attention).train(), torch.randn(2, 3, 32), context=torch.randn(2))
    assert (table.loc[["network.self_attn.out_proj", "network.linear1"], "memory"] > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: functional.product_linear(torch.zeros(2, 3), torch.zeros(2, 4, 1), torch.zeros(1, 3)), "are none of"),
        (lambda: functional.product_linear(torch.zeros(2, 3), torch.zeros(4, 1), torch.zeros(2, 3)), "are none of"),
        (
            lambda: functional.product_linear(torch.zeros(2, 3), torch.zeros(4, 1), torch.zeros(1, 3), torch.zeros(3)),
            r"a kernel \(3,\) to start at, but the product is \(4, 3\)",
        ),
        (
            lambda: functional.product_convolution(
                torch.zeros(2, 3, 4), torch.zeros(4, 1), torch.zeros(1, 3, 1), bias=torch.zeros(3)
            ),
            "a bias of shape",
        ),
    ),
)
def test_factors_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_generators_whose_calls_differ_are_called():
    class Doubled(LowRankGenerator):
        def generate(self, context):
            return 2 * super().generate(context)

    layer = nn.Linear(16, 12)
    for make, thin in ((THIN, True), (partial(Doubled, rank=3), False), (DenseGenerator, False)):
        told = conditional(layer, 2, generator=make, keep_function="shared")
        assert (told.network.generator.thin_rank() is not None) == thin
    hooked = conditional(layer, 2, generator=THIN, keep_function="shared")
    seen = []
    hooked.network.generator.generator.register_forward_hook(lambda *call: seen.append(call[2].shape))
    hooked(torch.randn(3, 16), context=torch.randn(3, 2))
    assert seen == [(3, 12, 16)]


def test_the_network_given_lives_on_in_its_adapters_only_as_long_as_these():
    layer = nn.Linear(16, 12)
    told, gone = adapted(layer), weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    assert told(torch.randn(3, 16), context=torch.randn(3, 2)).shape == (3, 12)


@pytest.mark.slow
def test_compiled_and_exported(net):
    told = adapted(net).eval()
    input, contexts = images(), torch.randn(5, 2)
    compiled = torch.compile(told, fullgraph=True)
    torch.testing.assert_close(compiled(input, context=contexts), told(input, context=contexts), rtol=1e-4, atol=1e-5)
    batch = torch.export.Dim("batch")
    sizes = {"inputs": ({0: batch},), "context": {0: batch}}
    program = torch.export.export(told, (input,), {"context": contexts}, dynamic_shapes=sizes)
    few, some = images()[:3], torch.randn(3, 2)
    torch.testing.assert_close(program.module()(few, context=some), told(few, context=some), rtol=1e-4, atol=1e-5)

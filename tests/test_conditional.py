"""Networks that are told a context which their own ``forward`` does not know."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hyperconv import (
    CoordinateMLP,
    DenseGenerator,
    HyperLinear,
    LowRankGenerator,
    bake,
    cached,
    conditional,
    cost,
    hyperize,
)
from hyperconv.convert import all_layers, spatial_convolutions
from hyperconv.layers import HyperLayer

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, groups=2, padding_mode="reflect", padding=1), (4, 7, 8)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 3, dilation=2), (2, 6, 7, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2), (3, 8)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), (4, 5, 4)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, bias=False), (2, 4, 3, 4)),
    "Linear": (lambda: nn.Linear(5, 4), (3, 5)),
}
NORMS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (3,)),
    "BatchNorm1d of signals": (lambda: nn.BatchNorm1d(3, momentum=None), (3, 5)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3, eps=0.1, momentum=0.5), (3, 4, 5)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), (3, 2, 4, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), (3, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (3, 4, 5)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(3, affine=True), (3, 2, 4, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (6, 4, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (4, 5, 6)),
    "LayerNorm without shift": (lambda: nn.LayerNorm(6, bias=False), (6,)),
    "LayerNorm of maps": (lambda: nn.LayerNorm((3, 4, 5)), (3, 4, 5)),
}


def everything(name, layer):
    return True


class Net(nn.Module):
    """Nested, with a layer that is used twice, a part that is checkpointed, and normalisation."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.alias = self.twice
        self.part = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Tanh(), nn.Dropout(0.2))
        self.last = nn.Linear(6, 2)

    def forward(self, images):
        features = self.alias(self.twice(self.first(images)).relu())
        features = checkpoint(self.part, features, use_reentrant=False) if self.checkpointed else self.part(features)
        return self.last(features.mean(dim=(2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def learned(network, **settings):
    """A conditional network that is no longer what it started as."""
    return stirred(conditional(network, 2, **settings))


@torch.no_grad()
def stirred(network):
    """With other parameters, but for those that are frozen."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def used(network):
    """With other running statistics."""
    for buffer in network.buffers():
        buffer.add_(torch.rand_like(buffer) if buffer.is_floating_point() else 3)
    return stirred(network)


images = partial(torch.randn, 5, 3, 8, 8)


@pytest.mark.parametrize("keep_function", (False, True))
@pytest.mark.parametrize("name", [*LAYERS, *NORMS])
def test_gradients_are_those_of_functional_calls_a_sample(name, keep_function):
    torch.manual_seed(0)
    make, shape = (LAYERS | NORMS)[name]
    layer = used(make().double().eval())
    told = learned(layer, keep_function=keep_function, select=everything)
    inputs = torch.randn(4, *shape, dtype=torch.float64, requires_grad=True)
    contexts = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)

    def one_by_one():
        outputs = []
        for input, context in zip(inputs, contexts, strict=True):
            features = told.features(context)
            hyper = told.network
            weights = {"weight": hyper.generator(features)}
            if hyper.bias_generator is not None:
                weights["bias"] = hyper.bias_generator(features)
            outputs.append(torch.func.functional_call(layer, weights, (input.unsqueeze(0),)))
        return torch.cat(outputs)

    leaves = [inputs, contexts, *(each for each in told.parameters() if each.requires_grad)]
    expected, output = one_by_one(), told(inputs, context=contexts)
    torch.testing.assert_close(output, expected)
    cotangent = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(output, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("generator", (DenseGenerator, LowRankGenerator))
def test_a_network_comes_back_as_it_went_in_and_as_it_has_learned(net, generator):
    told = conditional(net, 2, keep_function=True, generator=generator)
    input, contexts = images(), torch.randn(5, 2)
    torch.testing.assert_close(told(input, context=contexts), net(input))
    torch.testing.assert_close(told(input, context=contexts[0]), net(input))
    told.train()
    optimizer = torch.optim.Adam([each for each in told.parameters() if each.requires_grad], 2e-3)
    target = contexts @ torch.randn(2, 2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(told(input, context=contexts), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    told.eval()
    outputs = told(input, context=contexts)
    assert (outputs - net(input)).abs().max() > 0.01
    for context, output in zip(contexts, outputs.unbind(), strict=True):
        baked = bake(told, context, check=input)
        assert list(baked.state_dict()) == list(net.state_dict())
        assert not any(isinstance(part, HyperLayer) for part in baked.modules())
        torch.testing.assert_close(
            baked(input)[contexts.tolist().index(context.tolist())], output, rtol=1e-4, atol=1e-5
        )


def test_one_trunk_serves_every_layer_and_what_is_not_generated_is_the_networks(net):
    told = conditional(net, 3, hidden=(8, 4))
    widths = {each.generator.context_dim for each in told.modules() if isinstance(each, HyperLayer)}
    assert widths == {4}
    features = told.features(torch.randn(6, 3))
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(6))
    before = told.network.first[1].running_mean.clone()
    told.train()(images(), context=torch.randn(5, 3))
    assert not torch.equal(told.network.first[1].running_mean, before)
    assert torch.equal(net.first[1].running_mean, torch.zeros(6))


def test_kernels_start_at_the_scale_of_torch(net):
    torch.manual_seed(0)
    told = conditional(nn.Conv2d(16, 32, 3), 2)
    features = told.features(torch.randn(400, 2))
    kernels, biases = told.network.generator(features), told.network.bias_generator(features)
    assert kernels.std().item() == pytest.approx((3 * 16 * 9) ** -0.5, rel=0.1)
    assert biases.std().item() == pytest.approx((3 * 16 * 9) ** -0.5, rel=0.25)


def test_parts_that_are_checkpointed_within_see_the_context_of_their_call():
    torch.manual_seed(0)
    told = learned(Net(checkpointed=True))
    plain = copy.deepcopy(told)
    plain.network.checkpointed = False
    calls = [(images().requires_grad_(), torch.randn(2)), (images().requires_grad_(), torch.randn(5, 2))]
    for each in (told, plain):
        each.eval()

    def gradients(network):
        # both calls come before the backward pass
        outputs = [network(input, context=context) for input, context in calls]
        (outputs[0].sum() + 2 * outputs[1].square().sum()).backward()
        return [parameter.grad for parameter in network.parameters()]

    for ours, theirs in zip(gradients(told), gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_threads_are_told_a_context_each(net):
    told = learned(net)
    input, contexts = images(), torch.randn(4, 2)
    expected = [told(input, context=context).detach() for context in contexts]
    wrong = []

    def serve(index):
        for _ in range(40):
            output = told(input, context=contexts[index])
            output.sum().backward(inputs=list(told.trunk.parameters()))
            if not torch.allclose(output, expected[index], atol=1e-5):
                wrong.append(index)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(serve, range(4)))
    assert not wrong
    assert all(each.told is None for each in told.modules() if isinstance(each, HyperLayer))


def test_hooks_copies_files_and_cached_kernels(net, tmp_path):
    told = learned(net)
    input, context = images(), torch.randn(2)
    expected = told(input, context=context)
    seen = []
    told.network.twice.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    told.network.register_forward_hook(lambda module, arguments, output: 2 * output)
    torch.testing.assert_close(told(input, context=context), 2 * expected)
    assert len(seen) == 2
    torch.testing.assert_close(copy.deepcopy(told)(input, context=context), 2 * expected)
    other = conditional(net, 2)
    torch.save(told.state_dict(), tmp_path / "told.pt")
    other.load_state_dict(torch.load(tmp_path / "told.pt", weights_only=True))
    torch.testing.assert_close(other(input, context=context), expected)
    with torch.inference_mode(), cached(told, context):
        torch.testing.assert_close(told(input), 2 * expected)


def test_mixed_precision_rounds_what_is_computed_and_not_the_generators(net):
    told = learned(net)
    input, contexts = images(), torch.randn(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = told(input, context=contexts)
        features = told.features(contexts)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(features, told.features(contexts), rtol=0, atol=0)
    torch.testing.assert_close(output.float(), told(input, context=contexts), rtol=0.1, atol=0.1)


def test_a_layer_whose_weight_others_read_knows_one_context():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    told = learned(encoder, keep_function=True)
    tokens, contexts = torch.randn(3, 5, 8), torch.randn(3, 2)
    baked = bake(told, contexts[0])
    torch.testing.assert_close(told(tokens, context=contexts[0]), baked(tokens), rtol=1e-4, atol=1e-5)
    others = learned(encoder, select=lambda name, layer: "linear" in name).train()
    outputs = others(tokens, context=contexts)
    for output, token, context in zip(outputs, tokens, contexts, strict=True):
        torch.testing.assert_close(output, bake(others, context)(token[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"context_dim": 0}, "1 or more, got 0"),
        ({"hidden": ()}, "hidden widths must be 1 or more"),
        ({"hidden": (8, 2)}, "last hidden width must be 3 or more, got 2"),
        ({"select": lambda name, layer: False}, "no layer of this Net is selected"),
        ({"generator": CoordinateMLP}, "last: "),
    ),
)
def test_what_makes_no_conditional_network_is_refused(net, settings, message):
    with pytest.raises(ValueError, match=message):
        conditional(net, **{"context_dim": 2, **settings})


def test_contexts_that_do_not_fit_are_refused_in_words(net):
    told = conditional(net, 2)
    with pytest.raises(ValueError, match=r"takes a context \(2,\) or \(B, 2\), got \(5, 3\)"):
        told(images(), context=torch.randn(5, 3))
    with pytest.raises(ValueError, match="4 contexts for 5 samples"):
        told(images(), context=torch.randn(4, 2))
    with pytest.raises(ValueError, match="the network needs a context of width 2, got none"):
        told(images())
    with pytest.raises(ValueError, match="is baked for a context, got none"):
        bake(told)


@pytest.mark.slow
@pytest.mark.parametrize("select", (all_layers, everything))
def test_compiled_and_exported(net, select):
    told = learned(net, select=select)
    input, contexts = images(), torch.randn(5, 2, requires_grad=True)
    expected = told(input, context=contexts)
    (gradient,) = torch.autograd.grad(expected.sum(), contexts)
    compiled = torch.compile(told, fullgraph=True)
    output = compiled(input, context=contexts)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), contexts)[0], gradient, rtol=1e-4, atol=1e-5)
    other = torch.randn(5, 2)
    torch.testing.assert_close(compiled(input, context=other), told(input, context=other), rtol=1e-4, atol=1e-5)
    batch = torch.export.Dim("batch")
    sizes = {"inputs": ({0: batch},), "context": {0: batch}}
    program = torch.export.export(told, (input,), {"context": contexts.detach()}, dynamic_shapes=sizes)
    few, some = images()[:3], torch.randn(3, 2)
    torch.testing.assert_close(program.module()(few, context=some), told(few, context=some), rtol=1e-4, atol=1e-5)
    assert all(each.told is None for each in told.modules() if isinstance(each, HyperLayer))


class Reads(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(4, 4), what

    def forward(self, input):
        return self.linear(input) + getattr(self.linear, self.what).sum()


@pytest.mark.parametrize("what", ("weight", "bias"))
def test_what_is_read_is_that_of_one_context_and_refused_for_many(what):
    told = learned(Reads(what))
    input, contexts = torch.randn(4, 4), torch.randn(4, 2)
    torch.testing.assert_close(told(input, context=contexts[0]), bake(told, contexts[0])(input))
    with pytest.raises(ValueError, match=f"layer linear: the network reads its {what}"):
        told(input, context=contexts)


def test_a_mistake_in_the_network_is_told_as_it_is():
    with pytest.raises(AttributeError, match="missing"):
        conditional(Reads("missing"), 2)(torch.randn(4, 4), context=torch.randn(2))


def test_parametrised_parents_are_copied_and_networks_with_a_context_refused():
    attention = nn.utils.parametrizations.weight_norm(nn.MultiheadAttention(8, 2, batch_first=True), "in_proj_weight")
    tokens = torch.randn(2, 3, 8)
    assert conditional(attention, 2)(tokens, tokens, tokens, context=torch.randn(2))[0].shape == tokens.shape
    with pytest.raises(ValueError, match="Conditional takes a context of its own"):
        conditional(conditional(nn.Linear(2, 2), 2), 2)


def test_a_conditional_part_is_baked_and_cached_by_itself():
    whole = nn.Sequential(conditional(nn.Linear(2, 2), 2))
    for refused in (lambda: bake(whole, torch.randn(2)), lambda: cached(whole, torch.randn(2)).__enter__()):
        with pytest.raises(ValueError, match="part 0 is conditional"):
            refused()


class Tied(nn.Module):
    """A bias that a parameter of another kind, or another layer, has too."""

    def __init__(self, other="offset"):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if other == "offset":
            self.offset = self.first.bias
        else:
            self.second.bias = self.first.bias

    def forward(self, input):
        return self.second(self.first(input))


def test_a_bias_that_is_also_someone_elses_is_refused_where_it_would_be_untied():
    with pytest.raises(ValueError, match=r"layer first: its bias is also offset, which is not replaced"):
        conditional(Tied(), 2)
    with pytest.raises(ValueError, match=r"layer first: its bias is also second\.bias, which is not replaced"):
        conditional(Tied("second"), 2, select=lambda name, layer: name == "first")
    told = learned(Tied("second"))
    assert told.network.first.bias_generator is told.network.second.bias_generator
    baked = bake(told, torch.randn(2))
    assert baked.first.bias is baked.second.bias


class InAList(nn.Module):
    def __init__(self, depth):
        super().__init__()
        made = nn.Linear(4, 4)
        for _ in range(depth):
            made = nn.Sequential(made)
        self.part = made
        self.order = {"forth": [made]}

    def forward(self, input):
        return self.order["forth"][0](input)


def test_layers_in_plain_containers_are_refused_by_name():
    for depth, name in ((0, "part"), (1, "part.0"), (2, "part.0.0")):
        with pytest.raises(ValueError, match=r"part.*is also in order, where it cannot be replaced; .*nn\.ModuleList"):
            conditional(InAList(depth), 2)
        kept = conditional(nn.Sequential(InAList(depth), nn.Linear(4, 4)), 2, select=lambda name, layer: name == "1")
        assert kept(torch.randn(3, 4), context=torch.randn(3, 2)).shape == (3, 4), name


def test_cost_of_a_conditional_network_counts_its_trunk_and_takes_a_context(net):
    told = conditional(net, 2, hidden=(8, 4))
    input, contexts = images(), torch.randn(5, 2)
    table, of_one = cost(told, input, context=contexts), cost(told, input, context=contexts[0])
    assert table.loc["sum", "stored"] == sum(each.numel() for each in told.trunk.parameters()) + sum(
        each.numel() for layer in told.modules() if isinstance(layer, HyperLayer) for each in layer.parameters()
    )
    assert table.loc["trunk", ["stored", "baked"]].tolist() == [60, 0]
    assert table.loc["trunk", "generate"] == 5 * of_one.loc["trunk", "generate"] == 5 * 2 * (2 * 8 + 8 * 4)
    assert table.loc["network.last", "apply"] > 0
    # called twice, so generated twice
    assert of_one.loc["network.twice", "generate"] == 2 * 2 * 4 * (6 * 6 * 9 + 6)
    assert of_one.loc["network.first.0", "apply"] == 2 * 5 * 64 * 6 * 3 * 9


def test_a_weight_that_is_read_is_counted_too():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    tokens = torch.randn(2, 3, 8)
    table = cost(conditional(attention, 2, hidden=(4,)), tokens, tokens, tokens, context=torch.randn(2))
    generate, once = table.loc["network.out_proj", "generate"], 2 * 4 * (8 * 8 + 8)
    assert generate > 0 and generate % once == 0


def test_generators_of_another_width_than_their_layers_are_refused():
    def of_odd_biases(shape, **factory):
        return DenseGenerator(shape, 3 if len(shape) > 1 else 2, **factory)

    with pytest.raises(
        ValueError, match=r"the weight's generator takes contexts of width 3, the bias' contexts of width 2"
    ):
        HyperLinear(4, 4, bias="generated", generator=of_odd_biases)

    def without(shape, context_dim, **factory):
        return DenseGenerator(shape, **factory)

    with pytest.raises(ValueError, match="layer Linear: the weight's generator takes no context, the bias' contexts"):
        conditional(nn.Linear(4, 4), 2, generator=without)


@pytest.mark.parametrize("batch_first", (True, False))
def test_attention_calls_its_projection_where_there_is_one_a_sample(batch_first):
    torch.manual_seed(0)
    told = learned(nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=6, vdim=5, add_bias_kv=True))
    query, key, value = torch.randn(3, 4, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 5)
    contexts = torch.randn(3, 2)
    inputs = [each if batch_first else each.transpose(0, 1) for each in (query, key, value)]
    attended, weights = told(*inputs, context=contexts)
    attended = attended if batch_first else attended.transpose(0, 1)
    for index, context in enumerate(contexts):
        alone = [each[index : index + 1] if batch_first else each[:, index : index + 1] for each in inputs]
        expected, seen = bake(told, context)(*alone)
        expected = expected if batch_first else expected.transpose(0, 1)
        torch.testing.assert_close(attended[index], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights[index], seen[0])


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("training", (False, True))
def test_transformers_take_a_context_a_sample_in_training_and_evaluation(training, masked):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).train(training)
    told = learned(encoder, keep_function=True)
    tokens, contexts = torch.randn(3, 5, 8), torch.randn(3, 2)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [4]]) if masked else None
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            outputs = told(tokens, src_key_padding_mask=mask, context=contexts)
            for index, context in enumerate(contexts):
                own = None if mask is None else mask[index : index + 1]
                expected = bake(told, context)(tokens[index : index + 1], src_key_padding_mask=own)
                length = 5 if mask is None else int((~mask[index]).sum())
                torch.testing.assert_close(outputs[index, :length], expected[0, :length], rtol=1e-4, atol=1e-5)


def test_transformers_whose_batch_comes_second_take_one_context_only():
    told = conditional(nn.TransformerEncoderLayer(8, 2, 16), 2)
    assert told(torch.randn(3, 3, 8), context=torch.randn(2)).shape == (3, 3, 8)
    contexts = torch.randn(3, 2)
    for block in (nullcontext(), cached(told.eval(), contexts)):
        with (
            torch.no_grad(),
            block,
            pytest.raises(
                ValueError, match="TransformerEncoderLayer: the batch of its attention is not the first axis"
            ),
        ):
            told(torch.randn(3, 3, 8), context=contexts)


@pytest.mark.slow
def test_a_batch_that_comes_second_is_refused_where_the_network_is_compiled():
    told = conditional(nn.TransformerEncoderLayer(8, 2, 16), 2)
    with pytest.raises(Exception, match="batch of its attention is not the first axis"):
        torch.compile(told, fullgraph=True)(torch.randn(3, 3, 8), context=torch.randn(3, 2))


@torch.no_grad()
def test_transformers_are_served_cached_kernels_a_sample():
    torch.manual_seed(0)
    told = learned(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    tokens, contexts = torch.randn(3, 4, 8), torch.randn(3, 2)
    expected = told(tokens, context=contexts)
    with cached(told, contexts):
        torch.testing.assert_close(told(tokens), expected)
        torch.testing.assert_close(told(tokens, context=contexts), expected)
    one_by_one = [bake(told, context)(sample[None]) for context, sample in zip(contexts, tokens, strict=True)]
    torch.testing.assert_close(expected, torch.cat(one_by_one), atol=1e-5, rtol=1e-4)


class Asks(nn.Module):
    """Reads its layer's bias as if there might be none."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, input):
        bias = getattr(self.layer, "bias", None)
        return self.layer(input) * (1 if bias is None else 2)


def test_a_bias_a_sample_is_not_taken_for_none():
    told, input, contexts = conditional(Asks(), 2), torch.randn(3, 3), torch.randn(3, 2)
    with pytest.raises(
        ValueError, match="layer layer: the network reads its bias, which differs from sample to sample"
    ):
        told(input, context=contexts)
    told(input, context=contexts[0])
    with torch.no_grad(), cached(told, contexts), pytest.raises(ValueError, match="layer layer: the network reads its"):
        told(input)


class Bound(nn.Module):
    """Runs what it stored when it was made."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.run = self._run

    def _run(self, input):
        return self.layer(input)

    def forward(self, input):
        return self.run(input)


def test_methods_that_a_network_stored_are_told_too():
    torch.manual_seed(0)
    told, input, contexts = conditional(Bound(), 2), torch.randn(3, 3), torch.randn(3, 2)
    expected = [bake(told, context)(sample) for context, sample in zip(contexts, input, strict=True)]
    torch.testing.assert_close(told(input, context=contexts), torch.stack(expected))


class StoredMethod(nn.Module):
    """Runs a part by what it stored of it."""

    def __init__(self, store):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.run = store(self.layer)

    def forward(self, input):
        return self.run(input)


@pytest.mark.parametrize(
    "store",
    (lambda layer: layer.forward, lambda layer: partial(nn.Module.__call__, layer), lambda layer: {layer}),
    ids=("method", "partial", "set"),
)
def test_a_part_whose_method_is_stored_elsewhere_is_refused_by_name(store):
    with pytest.raises(ValueError, match="layer: it is also in run, where it cannot be replaced"):
        conditional(StoredMethod(store), 2)


@pytest.mark.parametrize("whole", (False, True), ids=("in place", "wrapped"))
def test_parts_that_were_compiled_alone_are_told_too(whole):
    torch.manual_seed(0)
    told = learned(nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)))
    input, contexts = torch.randn(5, 3), torch.randn(5, 2)
    expected = told(input, context=contexts)
    if whole:
        told.network[0] = torch.compile(told.network[0], backend="eager")
    else:
        told.network[0].compile(backend="eager")
    torch.testing.assert_close(told(input, context=contexts), expected)


def test_a_sequence_first_block_takes_one_context_only():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.linear = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)

        def forward(self, tokens):
            return self.linear(self.attention(tokens, tokens, tokens)[0])

    told = conditional(nn.Sequential(Block()), 2, select=lambda name, layer: name.endswith("linear"))
    assert told(torch.randn(3, 3, 8), context=torch.randn(2)).shape == (3, 3, 8)
    with pytest.raises(ValueError, match="0, Block: the batch of its attention is not the first axis"):
        told(torch.randn(3, 3, 8), context=torch.randn(3, 2))


def test_synchronised_norms_are_baked_with_their_statistics():
    torch.manual_seed(0)
    told = learned(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), select=everything)
    input, context = images(), torch.randn(2)
    told(input, context=context)
    expected = bake(told, context)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(told))
    baked = bake(synchronised, context)
    assert type(baked[1]) is nn.SyncBatchNorm and type(expected[1]) is nn.BatchNorm2d
    torch.testing.assert_close(baked.eval()(input), expected.eval()(input))


@pytest.mark.filterwarnings("ignore")
def test_baked_attention_can_be_quantised():
    torch.manual_seed(0)
    baked = bake(
        learned(nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)])), torch.ones(2)
    )
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(baked), {nn.Linear}, dtype=torch.qint8)
    assert type(quantised[1]) is not nn.Linear
    tokens = torch.randn(3, 5, 8)
    torch.testing.assert_close(quantised[0](tokens, tokens, tokens), baked[0](tokens, tokens, tokens))


def test_a_baked_network_runs_in_onnxruntime_and_exported(net, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
    told, input, context = learned(net).eval(), images(), torch.randn(2)
    baked = bake(told, context)
    expected = told(input, context=context).detach()
    torch.testing.assert_close(torch.export.export(baked, (input,)).module()(input), expected)
    file = tmp_path / "net.onnx"
    torch.onnx.export(baked, (input,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: input.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_frozen_is_pointed_to_adapters():
    frozen = nn.Sequential(nn.Linear(3, 3)).requires_grad_(False)
    with pytest.raises(ValueError, match='is frozen, so that nothing could learn; keep_function="shared"'):
        conditional(frozen, 2, keep_function=True)
    assert conditional(frozen, 2, generator=LowRankGenerator, keep_function="shared").trunk[0].weight.requires_grad


def test_a_function_is_kept_in_one_of_two_ways(net):
    with pytest.raises(ValueError, match="keep_function must be False, True"):
        conditional(net, 2, keep_function="Shared")
    with pytest.raises(ValueError, match="layer last"):
        hyperize(net, all_layers, inplace=True, keep_function="shared")
    assert all(parameter.requires_grad for parameter in net.parameters())


@torch.no_grad()
def test_where_a_part_is_cached_the_rest_is_told(net):
    told = learned(net)
    context = torch.randn(2)
    expected = told(input := images(), context=context)
    with cached(told.network.first, told.features(context)):
        torch.testing.assert_close(told(input, context=context), expected)


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1, dtype=torch.complex64)
        self.last = nn.Linear(8, 2)

    def forward(self, signal):
        return self.last(self.conv(torch.fft.fft(signal)).abs())


def test_complex_networks_have_a_real_trunk():
    torch.manual_seed(0)
    net = Spectral()
    told = conditional(net, 2, keep_function=True)
    signal, contexts = torch.randn(4, 2, 8), torch.randn(4, 2)
    torch.testing.assert_close(told(signal, context=contexts), net(signal))
    told = learned(net)
    outputs = told(signal, context=contexts)
    outputs.square().sum().backward()
    assert all(each.grad is not None for each in told.parameters())
    for output, input, context in zip(outputs, signal, contexts, strict=True):
        torch.testing.assert_close(bake(told, context)(input[None])[0], output, rtol=1e-4, atol=1e-5)
    # the variance of a complex number is that of both of its parts
    kernels = DenseGenerator((16, 24, 3), context_dim=5, dtype=torch.complex64)(torch.randn(200, 5))
    assert kernels.abs().square().mean().sqrt().item() == pytest.approx((3 * 24 * 3) ** -0.5, rel=0.15)


def test_a_context_within_cached_must_be_the_cached_one(net):
    told = learned(net)
    input, contexts = images(), torch.randn(5, 2)
    with torch.no_grad(), cached(told, contexts):
        torch.testing.assert_close(told(input, context=contexts), told(input))
        for other in (contexts[0], contexts + 1):
            with pytest.raises(RuntimeError, match="another context than the kernels were cached for"):
                told(input, context=other)


class Folds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, input):
        return self.inner(input.flatten(0, 1)).view_as(input)


def test_a_layer_that_is_called_with_other_samples_than_the_network_is_named():
    told = conditional(Folds(), 2)
    with pytest.raises(ValueError, match="layer inner: 3 contexts for 15 samples"):
        told(torch.randn(3, 5, 4), context=torch.randn(3, 2))
    with pytest.raises(ValueError, match="layer HyperLinear: 2 contexts for 3 samples"):
        conditional(nn.Linear(4, 4), 2)(torch.randn(3, 4), context=torch.randn(2, 2))


@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("name", NORMS)
def test_norms_start_where_they_are_and_are_baked_as_they_were(name, training):
    torch.manual_seed(0)
    make, shape = NORMS[name]
    norm = used(make()).train(training)
    hyper = conditional(norm, 2, select=everything, keep_function=True)
    input, contexts = torch.randn(4, *shape), torch.randn(4, 2)
    expected = copy.deepcopy(norm)(input)
    torch.testing.assert_close(copy.deepcopy(hyper)(input, context=contexts), expected)
    torch.testing.assert_close(copy.deepcopy(hyper)(input, context=contexts[0]), expected)
    # without it they start as torch.nn's do
    fresh, reset = conditional(norm, 2, select=everything), copy.deepcopy(norm)
    reset.weight.data.fill_(1)
    if reset.bias is not None:
        reset.bias.data.fill_(0)
    torch.testing.assert_close(fresh(input, context=contexts), copy.deepcopy(reset)(input))
    stirred_weights = learned(norm, select=everything)
    baked = bake(stirred_weights, contexts[0])
    assert type(baked) is type(norm) and repr(baked) == repr(norm)
    assert list(baked.state_dict()) == list(norm.state_dict())
    for ours, theirs in zip(baked.buffers(), stirred_weights.network.norm.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    output = stirred_weights(input, context=contexts[0])
    assert (output - expected).abs().max() > 0.01
    torch.testing.assert_close(baked(input), output)
    # training moved the statistics of both, as it would have without a context
    for ours, theirs in zip(baked.buffers(), stirred_weights.network.norm.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_norms_are_generated_only_where_they_are_selected(net):
    assert isinstance(conditional(net, 2).network.first[1], nn.BatchNorm2d)
    told = conditional(net, 2, select=everything, generator=LowRankGenerator)
    assert isinstance(told.network.first[1].generator.generator, DenseGenerator)
    assert isinstance(hyperize(net, everything, DenseGenerator).first[1], nn.BatchNorm2d)
    table = cost(told)
    assert table.loc["network.first.1", "baked"] == 2 * 6
    without = nn.Sequential(nn.InstanceNorm2d(3), nn.Conv2d(3, 3, 3))
    assert type(conditional(without, 2, select=everything).network[0]) is nn.InstanceNorm2d
    mixed = conditional(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3)), 2, select=spatial_convolutions
    )
    assert [type(layer).__name__ for layer in mixed.network] == ["Conv2d", "HyperConv2d", "GroupNorm"]


def test_a_network_with_its_norms_comes_back(net):
    used(net).eval()
    told = conditional(net, 2, select=everything, keep_function=True)
    input, contexts = images(), torch.randn(5, 2)
    torch.testing.assert_close(told(input, context=contexts), net(input))
    stirred(told).train()
    told(input, context=contexts).square().sum().backward()
    told.eval()
    norm = told.network.first[1]
    assert norm.generator.start.grad is None and norm.generator.generator.weight.grad.abs().sum() > 0
    outputs = told(input, context=contexts)
    with torch.no_grad(), cached(told, contexts):
        torch.testing.assert_close(told(input), outputs)
    for index, context in enumerate(contexts):
        baked = bake(told, context, check=input)
        assert list(baked.state_dict()) == list(net.state_dict())
        torch.testing.assert_close(baked(input)[index], outputs[index], rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(torch.randn(2, 6, 4, 4, dtype=torch.bfloat16), torch.randn(2, 16)).dtype == torch.bfloat16


@pytest.mark.parametrize("norm_first", (False, True))
def test_transformers_norms_take_one_context_or_one_a_sample(norm_first):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first).eval()
    told = learned(encoder, select=everything)
    tokens, contexts = torch.randn(3, 5, 8), torch.randn(3, 2)
    with torch.no_grad():
        outputs = told(tokens, context=contexts)
        for output, token, context in zip(outputs, tokens, contexts, strict=True):
            expected = bake(told, context)(token[None])
            torch.testing.assert_close(told(token[None], context=context), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(output, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "shape", "message"),
    (
        (nn.InstanceNorm2d(3, affine=True), (3, 5, 5), "needs a batch of inputs"),
        (nn.LayerNorm(3), (3,), "needs a batch of inputs"),
        (nn.GroupNorm(1, 3), (4, 3, 5), "3 contexts for 4 samples"),
        (nn.InstanceNorm1d(3, affine=True), (3, 1, 5), r"a normalisation of \(3,\) got an input of shape \(3, 1, 5\)"),
        (nn.LayerNorm((2, 3)), (3, 3, 3), r"a normalisation of \(2, 3\) got an input of shape \(3, 3, 3\)"),
    ),
)
def test_norms_refuse_what_does_not_fit(norm, shape, message):
    told = conditional(norm, 2, select=everything)
    with pytest.raises(ValueError, match=message):
        told(torch.randn(shape), context=torch.randn(3, 2))


def _half_the_batch(rank, folder):
    """One of two processes that train together; the first one leaves its gradients."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    told = learned(Net().double().eval())
    wrapped = nn.parallel.DistributedDataParallel(told)
    inputs, contexts = torch.load(folder / "batch.pt", weights_only=True)
    own = slice(2 * rank, 2 * rank + 2)
    wrapped(inputs[own], context=contexts[own]).square().mean().backward()
    if rank == 0:
        torch.save({name: each.grad for name, each in told.named_parameters()}, folder / "gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_together_have_the_gradients_of_one(tmp_path):
    batch = images(dtype=torch.float64)[:4], torch.randn(4, 2, dtype=torch.float64)
    torch.save(batch, tmp_path / "batch.pt")
    torch.multiprocessing.start_processes(_half_the_batch, (tmp_path,), nprocs=2, start_method="fork")
    torch.manual_seed(0)
    told = learned(Net().double().eval())
    told(batch[0], context=batch[1]).square().mean().backward()
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert gradients.keys() == dict(told.named_parameters()).keys()
    for name, parameter in told.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)

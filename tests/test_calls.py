"""What belongs to one call stays with it: threads, checkpoints, replicas and hooks see what torch.nn shows them."""

import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from generators import PER_SAMPLE
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from hyperconv import CoordinateMLP, DenseGenerator, GeneratedTogether, HyperConv2d, HyperLinear, bake, cached, cost
from hyperconv.generators import coordinate_mlp
from hyperconv.layers import HyperLayer

STATELESS = partial(CoordinateMLP, hidden=(6, 5), norm="stateless")


def network(*, kind=GeneratedTogether, generator=STATELESS, **settings):
    torch.manual_seed(0)
    layers = (HyperConv2d(4, 4, 3, padding=1, generator=generator, **settings) for _ in range(3))
    return kind(*layers).double()


def images(batch=2):
    return torch.randn(batch, 4, 6, 6, dtype=torch.float64)


def results(run, module, input):
    output = run(input)
    gradients = torch.autograd.grad(output.square().sum(), list(module.parameters()), allow_unused=True)
    return output, *gradients


def assert_as_sequential(together, input=None):
    input = images() if input is None else input
    plain = nn.Sequential(*together)
    for ours, theirs in zip(results(together, plain, input), results(plain, plain, input), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture
def runs(monkeypatch):
    """How many trunks each run together had."""
    taken, run = [], coordinate_mlp.features_together
    monkeypatch.setattr("hyperconv.together.features_together", lambda alike: taken.append(len(alike)) or run(alike))
    return taken


def test_plain_trunks_are_run_as_one(runs):
    assert_as_sequential(network())
    assert runs == [3]


def test_kernels_of_other_shapes_scales_and_sizes_are_run_beside_each_other(runs):
    torch.manual_seed(0)
    hidden = {"generator": partial(CoordinateMLP, hidden=(6, 5))}
    together = GeneratedTogether(
        HyperConv2d(4, 4, 3, padding=1, **hidden),
        HyperConv2d(4, 4, 3, padding=1, generator=partial(CoordinateMLP, hidden=(6, 5), init="hyperfan-in")),
        HyperConv2d(4, 8, 3, padding=1, **hidden),
        HyperConv2d(8, 4, 3, padding=1, stride=2, groups=2, **hidden),
        HyperConv2d(4, 128, 3, padding=1, **hidden),
        HyperConv2d(128, 512, 3, padding=1, **hidden),
        HyperConv2d(512, 4, 3, padding=1, **hidden),
    ).double()
    assert_as_sequential(together)
    assert runs == [7]


def test_hooks_work_in_place_on_kernels_of_layers_that_share_a_generator():
    together = network()
    together[1].generator = together[0].generator
    together[0].generator.register_forward_hook(lambda generator, arguments, kernel: kernel.mul_(2))
    assert_as_sequential(together)
    with torch.no_grad():
        input = images()
        torch.testing.assert_close(together(input), nn.Sequential(*together)(input))


def test_odd_generators_are_run_beside_the_others():
    together = network()
    together[1].generator.mean = nn.Parameter(torch.zeros(1, 1, 1, dtype=torch.float64))
    assert_as_sequential(together)
    together[0].generator.requires_grad_(False)
    input = images()
    torch.testing.assert_close(together(input), nn.Sequential(*together)(input))


def test_a_pruned_head_is_the_pruned_one():
    together = network()
    unchanged = together(images())
    prune.l1_unstructured(together[1].generator, "head", 0.5)
    assert_as_sequential(together)
    assert not torch.equal(together(images()), unchanged)


class Adapted(nn.Module):
    """A linear layer with a low-rank update beside it."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.down, self.up = linear, nn.Linear(linear.in_features, 2), nn.Linear(2, linear.out_features)

    def forward(self, input):
        return self.linear(input) + self.up(self.down(input))


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def _replace(number, make):
    def change(trunk):
        trunk[number] = make(trunk[number])

    return change


def _own_forward(trunk):
    trunk[2].forward = lambda input: input.tanh() @ trunk[2].weight.T


CHANGES = {
    "pruned": lambda trunk: prune.l1_unstructured(trunk[2], "weight", 0.5),
    "pruned for good": lambda trunk: prune.remove(prune.l1_unstructured(trunk[2], "weight", 0.5), "weight"),
    "weight norm": lambda trunk: parametrizations.weight_norm(trunk[2]),
    "low rank": _replace(2, Adapted),
    "subclass": _replace(2, lambda linear: Doubled(6, 5)),
    "no bias": _replace(2, lambda linear: nn.Linear(6, 5, bias=False)),
    "another activation": _replace(1, lambda activation: nn.GELU()),
    "another slope": _replace(1, lambda activation: nn.LeakyReLU(0.9)),
    "another width": lambda trunk: (
        _replace(0, lambda _: nn.Linear(2, 7))(trunk),
        _replace(2, lambda _: nn.Linear(7, 5))(trunk),
    ),
    "forward hook": lambda trunk: trunk[1].register_forward_hook(lambda *arguments: arguments[-1] * 3),
    "hook with keywords": lambda trunk: trunk.register_forward_pre_hook(
        lambda module, arguments, keywords: ((arguments[0] * 2,), keywords), with_kwargs=True
    ),
    "own forward": _own_forward,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_trunk_that_is_not_plain_is_called_as_ever(change, runs):
    together = network()
    unchanged = together(images())
    CHANGES[change](together[1].generator.trunk)
    together.double()
    assert_as_sequential(together)
    assert not torch.equal(together(images()), unchanged)


def test_a_subclass_of_the_generator_is_called_as_ever():
    class Other(CoordinateMLP):
        def _encoded(self, positions):
            return 2 * super()._encoded(positions)

    assert_as_sequential(network(generator=partial(Other, hidden=(6, 5))))


@pytest.mark.filterwarnings("ignore")
def test_quantised_trunks_are_called_as_ever():
    together = network().float().eval()
    quantised = torch.ao.quantization.quantize_dynamic(together, {nn.Linear}, dtype=torch.qint8)
    input = images().float()
    torch.testing.assert_close(quantised(input), nn.Sequential(*quantised)(input))


@pytest.mark.parametrize("name", ("trunk.0.weight", "trunk.2.bias", "head", "scale", "mean"))
def test_weights_that_change_within_a_call_are_seen(name):
    together = network()
    nn.init.ones_(together[1].generator.mean)

    def scale(module, arguments):
        with torch.no_grad():
            together[1].generator.get_parameter(name).mul_(-3)

    handle = together[1].register_forward_pre_hook(scale)
    apart = copy.deepcopy(together)
    with torch.no_grad():
        first = apart[0](images_once := images())
        apart[1].generator.get_parameter(name).mul_(-3)
        apart[1]._forward_pre_hooks.clear()
        expected = apart[2](apart[1](first))
        torch.testing.assert_close(together(images_once), expected)
    handle.remove()


class Checkpointed(nn.Module):
    def __init__(self, module, reentrant):
        super().__init__()
        self.module, self.reentrant = module, reentrant

    def forward(self, input):
        return checkpoint(self.module, input, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpointed_parts_compute_the_same(reentrant):
    plain = nn.Sequential(*network())
    parts = GeneratedTogether(plain[0], Checkpointed(nn.Sequential(plain[1]), reentrant), plain[2])
    input = images().requires_grad_()
    expected = results(plain, plain, input)
    for run in (parts, partial(checkpoint, GeneratedTogether(*plain), use_reentrant=reentrant)):
        plain.zero_grad()
        output = run(input)
        output.square().sum().backward()
        torch.testing.assert_close(output, expected[0])
        for parameter, gradient in zip(plain.parameters(), expected[1:], strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_that_are_enabled_within_a_call_are_had():
    together = network()
    seen = []

    def look(module, arguments, output):
        with torch.enable_grad():
            loss = module.weight.square().sum()
        seen.append(torch.autograd.grad(loss, module.generator.trunk[0].weight)[0])

    together[2].register_forward_hook(look)
    with torch.no_grad():
        together(images())
    assert seen[0].abs().sum() > 0


def test_threads_train_and_infer_on_one_network_at_once():
    together = network()
    plain, input = nn.Sequential(*copy.deepcopy(together)), images()
    expected = results(plain, plain, input)

    def train():
        for _ in range(20):
            for ours, theirs in zip(results(together, together, input), expected, strict=True):
                torch.testing.assert_close(ours, theirs)

    @torch.no_grad()
    def infer():
        for _ in range(60):
            torch.testing.assert_close(together(input), expected[0])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for work in (train, infer, train, infer)]:
            future.result()


def test_a_thread_that_pauses_within_a_call_gets_its_gradients():
    together, input = network(), images()
    plain = nn.Sequential(*copy.deepcopy(together))
    expected = results(plain, plain, input)
    inferred, training = threading.Event(), threading.Event()
    trainer = threading.get_ident()

    def pause(module, arguments):
        if threading.get_ident() == trainer:
            training.set()
            assert inferred.wait(20)

    together[1].register_forward_pre_hook(pause)

    @torch.no_grad()
    def infer():
        training.wait(20)
        together(input)
        inferred.set()

    other = threading.Thread(target=infer)
    other.start()
    ours = results(together, together, input)
    other.join()
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.filterwarnings("ignore:generators that store more")
def test_copies_files_and_subclasses():
    class Named(GeneratedTogether):
        pass

    together = network(kind=Named)
    input = images()
    for twin in (copy.deepcopy(together), pickle.loads(pickle.dumps(network()))):
        torch.testing.assert_close(twin(input), together(input))
    plain, apart = (nn.Sequential(kind(*together)) for kind in (nn.Sequential, Named))
    assert cost(apart, input).equals(cost(plain, input))


def test_bake_leaves_plain_sequences():
    together = network()
    shared = nn.ModuleDict({"a": together, "b": nn.Sequential(together, GeneratedTogether(nn.ReLU()))})
    together.register_forward_hook(lambda module, arguments, output: output + 1)
    baked, input = bake(shared), images()
    assert type(baked["a"]) is type(baked["b"][1]) is nn.Sequential
    assert baked["a"] is baked["b"][0]
    torch.testing.assert_close(baked["b"](input), shared["b"](input))
    assert type(shared["a"]) is GeneratedTogether


def replicate(module):
    """As ``nn.DataParallel`` does, on the one device that there is."""
    twins = {part: part._replicate_for_data_parallel() for part in module.modules()}
    for part, twin in twins.items():
        for name, child in part._modules.items():
            twin._modules[name] = twins.get(child)
        twin._former_parameters = {}
        for name, parameter in part._parameters.items():
            if parameter is not None:
                value = parameter * 1
                setattr(twin, name, value)
                twin._former_parameters[name] = value
            else:
                twin._parameters[name] = None
        for name, buffer in part._buffers.items():
            twin._buffers[name] = buffer
    return twins[module]


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_replicas_of_data_parallel_have_no_parameters_and_work(name):
    torch.manual_seed(0)
    layer = HyperConv2d(4, 4, 3, generator=PER_SAMPLE[name])
    contexts, input = torch.rand(2, 3), torch.randn(2, 4, 6, 6)
    replica = replicate(layer)
    assert not list(replica.parameters())
    torch.testing.assert_close(replica(input, contexts), layer(input, contexts))


def test_replicas_generate_together():
    together, input = network(), images()
    output = replicate(together)(input)
    torch.testing.assert_close(output, together(input))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in together.parameters())


def conditioned(dims=2):
    torch.manual_seed(0)
    return nn.Sequential(HyperConv2d(4, 4, 3, generator=partial(DenseGenerator, context_dim=dims))).eval()


def test_threads_serve_a_context_each_and_nothing_stays():
    net, input = conditioned(), images().float()
    contexts = torch.randn(4, 2)
    with torch.no_grad():
        expected = [net[0](input, context) for context in contexts]
    together = threading.Barrier(4)

    @torch.no_grad()
    def serve(number):
        for _ in range(5):
            together.wait(20)
            with cached(net, contexts[number]):
                together.wait(20)
                torch.testing.assert_close(net(input), expected[number])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(serve, number) for number in range(4)]:
            future.result()
    net[0](input, contexts[0]).sum().backward()
    with pytest.raises(ValueError, match="got none"):
        net(input)


def test_blocks_that_end_in_another_order_or_in_an_error_leave_nothing():
    net, input = conditioned(), images().float()
    first, second = (cached(net, context) for context in torch.randn(2, 2))
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        net(input)
        second.__exit__(None, None, None)
        with pytest.raises(ValueError, match="got none"):
            net(input)
        with pytest.raises(ZeroDivisionError), cached(net, torch.randn(2)):
            raise ZeroDivisionError
        with pytest.raises(ValueError, match="got none"):
            net(input)


@pytest.mark.parametrize("kind", ("forward_hook", "forward_pre_hook", "full_backward_hook"))
def test_a_hook_that_is_added_makes_cached_kernels_stale(kind):
    net, input = conditioned(), images().float()
    with torch.no_grad(), cached(net, torch.randn(2)):
        getattr(net[0].generator.trunk, f"register_{kind}")(lambda *_: None)
        with pytest.raises(RuntimeError, match="has changed since"):
            net(input)


def test_cached_kernels_within_torch_compile():
    net, input = conditioned(), images().float()
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager")
    contexts = torch.randn(2, 2)
    with torch.no_grad():
        for context in contexts:
            with cached(net, context):
                torch.testing.assert_close(compiled(input), net[0](input))
        with cached(net, contexts[0]):
            contexts[0].zero_()
            with pytest.raises(RuntimeError, match="has changed since"):
                compiled(input)


def test_the_weight_of_a_layer_that_needs_a_context_is_no_attribute():
    net = conditioned()
    with pytest.raises(AttributeError, match=r"weight of this HyperConv2d depends on a context of width 2"):
        _ = net[0].weight
    assert not hasattr(net[0], "weight")
    assert getattr(net[0], "weight", None) is None
    assert "weight" not in dict(inspect.getmembers(net[0]))
    with torch.no_grad(), cached(net, context := torch.randn(2)):
        torch.testing.assert_close(net[0].weight, net[0].generator(context))


def test_an_error_of_the_generator_is_not_taken_for_a_missing_attribute():
    layer = HyperConv2d(2, 2, 3)
    layer.generator.register_forward_hook(lambda module, arguments, kernel: kernel.no_such_thing)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = layer.weight


@pytest.mark.filterwarnings("ignore")
def test_a_network_with_a_conditioned_layer_is_traced():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = conditioned()[0]

        def forward(self, input, context):
            return self.layer(input, context)

    net, input, context = Net(), images().float(), torch.randn(2)
    torch.testing.assert_close(torch.jit.trace(net, (input, context))(input, context), net(input, context))


def test_a_hyperized_transformer_reads_the_cached_weight():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    for name in ("linear1", "linear2"):
        plain = getattr(encoder, name)
        made = HyperLinear(plain.in_features, plain.out_features, generator=partial(DenseGenerator, context_dim=2))
        setattr(encoder, name, made.eval())
    context, rows = torch.randn(2), torch.randn(2, 5, 8)
    baked = bake(encoder, context)
    with torch.no_grad(), cached(encoder, context):
        torch.testing.assert_close(encoder(rows), baked(rows))
    assert isinstance(encoder.linear1, HyperLayer)

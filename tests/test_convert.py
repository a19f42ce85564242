import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
import torchvision
from generators import PER_SAMPLE
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hyperconv import (
    ChunkedGenerator,
    CoordinateMLP,
    GeneratedTogether,
    HyperConv1d,
    HyperConv2d,
    HyperConvTranspose2d,
    HyperLinear,
    bake,
    cached,
    convert,
    cost,
    hyperize,
    resize,
)

SMALL = partial(CoordinateMLP, hidden=(8, 4))


def slow(name, *values):
    return pytest.param(name, *values, marks=pytest.mark.slow, id=name)


MODELS = torchvision.models
IMAGES = (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    (
        pytest.param("mobilenet_v3_small", {"num_classes": 10}, IMAGES, id="mobilenet_v3_small"),
        slow("resnet18", {"num_classes": 10}, IMAGES),
        slow("densenet121", {"num_classes": 10}, IMAGES),
        slow("convnext_tiny", {"num_classes": 10}, IMAGES),
        slow("efficientnet_b0", {"num_classes": 10}, IMAGES),
        slow("lraspp_mobilenet_v3_large", {"num_classes": 4, "weights_backbone": None}, IMAGES),
        slow("r3d_18", {"num_classes": 10}, (1, 3, 4, 32, 32)),
    ),
)
def test_networks_from_other_hands_go_in_learn_a_step_and_come_out(name, options, shape):
    torch.manual_seed(0)
    plain, images = MODELS.get_model(name, **options).eval(), torch.randn(shape)
    hyper = hyperize(plain, generator=SMALL, keep_function=True)
    replaced = [layer for layer in hyper.modules() if isinstance(layer, convert.HyperLayer)]
    assert len(replaced) == sum(
        isinstance(layer, (nn.Conv2d, nn.Conv3d)) and torch.Size(layer.kernel_size).numel() > 1
        for layer in plain.modules()
    )

    def outputs(network):
        made = network(images)
        return made["out"] if isinstance(made, dict) else made

    expected = outputs(plain).detach()
    begun = outputs(hyper)
    assert (begun - expected).abs().max() < 1e-4 * expected.abs().max()
    optimizer = torch.optim.Adam([p for p in hyper.parameters() if p.requires_grad], lr=1e-3)
    begun.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        moved = outputs(hyper)
        assert (moved - expected).abs().max() > 1e-3 * expected.abs().max()
        baked = bake(hyper, check=images)
        assert (outputs(baked) - moved).abs().max() < 1e-4 * moved.abs().max()
    assert not any(isinstance(layer, convert.HyperLayer) for layer in baked.modules())
    assert list(baked.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(baked.state_dict())
    assert [p.requires_grad for p in baked.parameters()] == [p.requires_grad for p in plain.parameters()]


def assert_survives_copies_averages_and_files(hyper, other, images):
    """``other``: one like it, with other parameters."""
    hyper(images).sum().backward()
    expected = hyper(images)
    assert not torch.equal(other(images), expected)
    file = io.BytesIO()
    torch.save(hyper.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    average = AveragedModel(hyper, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for _ in range(2):
        average.update_parameters(hyper)
    for twin in (other, copy.deepcopy(hyper), pickle.loads(pickle.dumps(hyper)), average):
        assert torch.equal(twin(images), expected)


@pytest.mark.parametrize("generator", (SMALL, partial(ChunkedGenerator, chunk_size=64)))
def test_hyperized_networks_survive_copies_averages_and_files(generator):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2))
    images = torch.randn(2, 3, 9, 9)
    for keep in (False, True):
        hyper, other = (hyperize(net, generator=generator, keep_function=keep) for _ in range(2))
        with torch.no_grad():  # away from where both start
            for parameter in hyper.parameters():
                parameter.add_(0.1)
        assert_survives_copies_averages_and_files(hyper, other, images)


@pytest.mark.parametrize(
    ("name", "shape"),
    (
        pytest.param("mobilenet_v3_small", IMAGES, id="mobilenet_v3_small"),
        slow("resnet18", IMAGES),
        slow("densenet121", IMAGES),
        slow("r3d_18", (1, 3, 4, 32, 32)),
    ),
)
def test_hyperized_torchvision_models_survive_copies_averages_files_and_other_kernel_sizes(name, shape):
    torch.manual_seed(0)
    plain, images = MODELS.get_model(name, num_classes=10).eval(), torch.randn(shape)
    hyper, other = (hyperize(plain, generator=SMALL) for _ in range(2))
    assert_survives_copies_averages_and_files(hyper, other, images)
    wide = copy.deepcopy(plain)
    for layer in wide.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            layer.padding = tuple(pad + (size > 1) for pad, size in zip(layer.padding, layer.kernel_size, strict=True))
            layer.kernel_size = tuple(size + 2 * (size > 1) for size in layer.kernel_size)
    larger, other = hyperize(wide, generator=SMALL), hyperize(plain, generator=SMALL)
    larger.load_state_dict(hyper.state_dict())
    other.load_state_dict(larger.state_dict())
    with torch.no_grad():
        expected = hyper(images)
        assert torch.equal(other(images), expected)
        assert larger(images).isfinite().all() and not torch.equal(larger(images), expected)


def test_shared_layers_stay_shared_and_a_copy_leaves_the_original_alone():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.Conv2d(4, 4, 1)), "c": layer})
    hyper = hyperize(net, generator=SMALL)
    assert hyper["a"] is hyper["b"][0] is hyper["c"]
    assert isinstance(hyper["a"], HyperConv2d)
    assert type(hyper["b"][1]) is nn.Conv2d
    assert net["a"] is layer
    twice = hyperize(hyper, select=lambda name, layer: True, generator=ChunkedGenerator)
    assert isinstance(twice["b"][1].generator, ChunkedGenerator)
    assert repr(twice["a"]) == repr(hyper["a"])  # a generator's own layers are nobody's convolutions
    baked = bake(hyper)
    assert baked["a"] is baked["b"][0] is baked["c"]
    assert hyperize(net, generator=SMALL, inplace=True) is net
    assert isinstance(net["c"], HyperConv2d)


def test_a_layer_alone_every_dimension_and_every_setting():
    torch.manual_seed(0)
    for plain, images in (
        (nn.Conv1d(4, 6, 5, stride=2, padding=1, groups=2, padding_mode="circular"), torch.randn(2, 4, 11)),
        (nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2, bias=False), torch.randn(2, 4, 7, 8)),
        (nn.Conv3d(2, 3, 3, padding=(1, 0, 2)), torch.randn(1, 2, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 4, stride=3, output_padding=1, dilation=2), torch.randn(2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 5, 5)),
        (nn.ConvTranspose3d(2, 3, 2, bias=False), torch.randn(1, 2, 3, 3, 3)),
        (nn.Linear(5, 3), torch.randn(4, 5)),
    ):
        generator = ChunkedGenerator if isinstance(plain, nn.Linear) else SMALL
        plain.eval()
        hyper = hyperize(plain, select=lambda name, layer: True, generator=generator, keep_function=True)
        assert not hyper.training
        torch.testing.assert_close(hyper(images), plain(images))
        baked = bake(hyper, check=images)
        assert type(baked) is type(plain)
        assert repr(baked) == repr(plain)
        torch.testing.assert_close(baked.state_dict(), plain.state_dict())


class Same(nn.Conv2d):
    """Begins otherwise than its kind, and computes the same."""

    stripes = 3

    def __init__(self, channels):
        super().__init__(channels, channels, 3)

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class OwnForward(nn.Conv2d):
    def forward(self, input):
        return super().forward(input).relu()


class OwnCall(nn.Conv2d):
    def __call__(self, input):
        return 2 * super().__call__(input)


class OwnState(nn.Conv2d):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.stripes = 3


class OwnChild(nn.Conv2d):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = nn.Linear(1, 1)


def with_own_buffer(*sizes):
    layer = nn.Conv2d(*sizes)
    layer.register_buffer("mask", torch.ones(1))
    return layer


def with_own_forward(*sizes):
    layer = nn.Conv2d(*sizes)
    layer.forward = lambda input: input
    return layer


def weight_normed(*sizes):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Conv2d(*sizes))


COMPUTED = {
    "weight norm": lambda *sizes: nn.utils.parametrizations.weight_norm(nn.Conv2d(*sizes)),
    "old weight norm": weight_normed,
    "old spectral norm": lambda *sizes: nn.utils.spectral_norm(nn.Conv2d(*sizes)),
    "pruned": lambda *sizes: prune.l1_unstructured(nn.Conv2d(*sizes), "weight", 0.5),
}
OF_ITS_OWN = {
    "forward": OwnForward,
    "__call__": OwnCall,
    "state": OwnState,
    "child": OwnChild,
    "buffer": with_own_buffer,
    "forward of one layer": with_own_forward,
}


@pytest.mark.parametrize("name", (*COMPUTED, *OF_ITS_OWN))
def test_layers_that_are_more_than_their_kind_are_left_alone_and_refused_when_selected(name):
    make = (COMPUTED | OF_ITS_OWN)[name]
    words = "is no plain parameter; take off what computes it" if name in COMPUTED else "of its own; take a Conv2d"
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(make(3, 3, 3)))
    kept = net[1][0]
    with pytest.raises(ValueError, match=f"layer 1.0: .*{words}"):
        hyperize(net, select=lambda name, layer: True, generator=SMALL, inplace=True)
    assert type(net[0]) is nn.Conv2d
    hyperize(net, generator=SMALL, inplace=True)
    assert isinstance(net[0], HyperConv2d) and net[1][0] is kept


def test_select_sees_names_and_subclasses_that_only_begin_otherwise_are_replaced():
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(Same(3), OwnForward(3, 3, 3)))
    hyper = hyperize(net, select=lambda name, layer: seen.append(name) or name == "1.0", generator=SMALL)
    assert seen == ["0", "1.0", "1.1"]
    assert [type(layer) for layer in (hyper[0], *hyper[1])] == [nn.Conv2d, HyperConv2d, OwnForward]
    with pytest.raises(ValueError, match=r"layer 1: a kernel of coordinates has shape"):
        hyperize(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), select=lambda name, layer: True)


def test_a_layer_that_was_never_called_is_asked_for_its_first_call():
    net = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(ValueError, match="layer 0: it is not initialised; call the network once first"):
        hyperize(net, generator=SMALL)
    net(torch.zeros(1, 3, 8, 8))
    assert hyperize(net, generator=SMALL)[0].in_channels == 3


@pytest.mark.parametrize("name", ("old weight norm", "old spectral norm", "pruned"))
def test_a_network_that_torch_cannot_copy_is_refused_in_words(name):
    net = nn.Sequential(HyperConv2d(3, 3, 3, generator=SMALL), COMPUTED[name](3, 3, 3))
    net(torch.zeros(1, 3, 8, 8))
    for convert_it in (hyperize, bake):
        with pytest.raises(ValueError, match=r"layer 1: torch cannot copy 'weight'.*remove_weight_norm"):
            convert_it(net)


def every_hook(layer, calls):
    """Hooks of every kind, in an order of their own; their handles."""
    layer.register_forward_hook(lambda layer, args, output: calls.append("second"))
    return [
        layer.register_forward_hook(lambda layer, args, output: calls.append("first") or output + 1, prepend=True),
        layer.register_forward_hook(
            lambda layer, args, kwargs, output: calls.append(f"after {[*kwargs]}"), with_kwargs=True
        ),
        layer.register_forward_pre_hook(lambda layer, args: calls.append("logged")),
        layer.register_forward_pre_hook(
            lambda layer, args, kwargs: calls.append(f"before {[*kwargs]}"), with_kwargs=True
        ),
        layer.register_forward_hook(lambda layer, args, output: calls.append("always"), always_call=True),
        layer.register_full_backward_hook(lambda layer, grads, outputs: calls.append(f"backward {len(grads)}")),
        layer.register_full_backward_pre_hook(lambda layer, outputs: calls.append("backward begins")),
        layer.register_state_dict_pre_hook(lambda layer, prefix, keep: calls.append("saving")),
        layer.register_state_dict_post_hook(lambda layer, state, prefix, meta: calls.append("saved")),
        layer.register_load_state_dict_pre_hook(lambda layer, *arguments: calls.append(f"loading {layer.training}")),
        layer.register_load_state_dict_post_hook(lambda layer, keys: calls.append("loaded")),
    ]


def use(layer, calls):
    """What is called when a layer is called, saved and loaded, and when its call fails."""
    calls.clear()
    layer(torch.ones(1, 3, 5, 5, requires_grad=True)).sum().backward()
    with torch.no_grad():
        layer(input=torch.ones(1, 3, 5, 5))
    layer.load_state_dict(layer.state_dict())
    with pytest.raises((ValueError, RuntimeError)):
        layer(torch.ones(1, 7, 5, 5))
    return list(calls)


@pytest.mark.parametrize("start", (nn.Conv2d, partial(HyperConv2d, generator=SMALL)), ids=("hyperize", "bake"))
def test_hooks_keep_their_kind_and_order(start):
    calls = []
    layer = start(3, 4, 3)
    every_hook(layer, calls)
    expected = use(layer, calls)
    assert len(expected) == 21
    into = bake if isinstance(layer, HyperConv2d) else partial(hyperize, generator=SMALL)
    copied = into(nn.Sequential(layer))
    assert type(copied[0]) is not type(layer)
    del layer
    assert use(copied[0], calls) == expected


def test_handles_remove_their_hooks_after_a_change_in_place():
    calls = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    handles = every_hook(net[0], calls)
    hyperize(net, generator=SMALL, inplace=True)
    assert isinstance(net[0], HyperConv2d) and "logged" in use(net[0], calls)
    for handle in handles:
        handle.remove()
    assert set(use(net[0], calls)) == {"second"}


def test_attributes_that_were_set_on_a_layer_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net[0].origin = "stem"
    hyper = hyperize(net, generator=SMALL)
    assert (hyper[0].origin, bake(hyper)[0].origin) == ("stem", "stem")


@pytest.mark.parametrize("keep", (False, True))
def test_what_is_frozen_stays_frozen(keep):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    net[0].requires_grad_(False)
    net[1].bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in net.named_parameters()}
    hyper = hyperize(net, generator=SMALL, keep_function=keep)
    assert not any(p.requires_grad for p in hyper[0].parameters())
    assert not hyper[1].bias.requires_grad and any(p.requires_grad for p in hyper[1].generator.parameters())
    assert {name: p.requires_grad for name, p in bake(hyper).named_parameters()} == before


def tied(first, second, name="weight"):
    setattr(second, name, getattr(first, name))
    return nn.Sequential(first, second)


def step(net, images):
    net(images).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.01).step()
    return net


@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("name", ("weight", "bias"))
def test_tied_layers_stay_tied_in_and_out(name, keep):
    torch.manual_seed(0)
    sizes = (4, 4, 3, 1, 1)
    net, images = tied(nn.Conv2d(*sizes), nn.Conv2d(*sizes), name), torch.randn(1, 4, 6, 6)
    hyper = step(hyperize(net, generator=SMALL, keep_function=keep), images)
    torch.testing.assert_close(getattr(hyper[0], name), getattr(hyper[1], name))
    baked = bake(hyper, check=images)
    assert getattr(baked[0], name) is getattr(baked[1], name)
    step(baked, images)
    assert torch.equal(getattr(baked[0], name), getattr(baked[1], name))


def test_a_weight_that_is_also_someone_elses_is_refused_in_words():
    net = tied(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(ValueError, match=r"layer 1: its weight is also 0\.weight, which is not replaced; select all"):
        hyperize(net, select=lambda name, layer: name == "1", generator=SMALL)
    net = nn.Module()
    net.filters = nn.Conv2d(4, 4, 3)
    net.shown = net.filters.weight
    with pytest.raises(ValueError, match="layer filters: its weight is also shown"):
        hyperize(net, generator=SMALL)


def test_a_bias_that_is_also_someone_elses_stays_shared():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    net[1].bias = net[0].bias
    hyper = hyperize(net, generator=SMALL)
    baked = bake(hyper)
    assert hyper[0].bias is hyper[1].bias and baked[0].bias is baked[1].bias


def test_a_failure_halfway_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3)), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layer 1"):
        hyperize(net, select=lambda name, layer: True, inplace=True)
    assert type(net[0][0]) is nn.Conv2d


def test_bake_refuses_what_torch_has_no_layer_for():
    class Doubled(HyperConv2d):
        def __call__(self, *arguments):
            return 2 * super().__call__(*arguments)

    with pytest.raises(ValueError, match="layer 1: Doubled has __call__ of its own; take a HyperConv2d"):
        bake(nn.Sequential(nn.ReLU(), Doubled(3, 3, 3)))
    computed = HyperConv2d(3, 4, 3)
    nn.utils.parametrize.register_parametrization(computed, "bias", nn.Tanh())
    with pytest.raises(
        ValueError, match="layer ParametrizedHyperConv2d: its weight or bias is no plain parameter; take off"
    ):
        bake(computed)


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.layer = HyperConv2d(3, 4, 3, generator=SMALL)
        self.answer = answer

    def forward(self, images):
        return self.answer(self.layer(images))


@pytest.mark.parametrize(
    "answer",
    (
        lambda x: x.relu().log() - x.relu().log(),
        lambda x: x.argmax(1),
        lambda x: x > 0,
        lambda x: {"out": x, "sizes": [x.shape[0], None], "name": "x"},
        lambda x: x[:0],
    ),
    ids=("NaN", "integers", "bool", "a dict", "nothing"),
)
def test_bake_compares_outputs_of_every_form(answer):
    assert type(bake(Answers(answer), check=torch.randn(2, 3, 8, 8)).layer) is nn.Conv2d


def test_check_and_bake_leave_the_inputs_and_the_network_as_they_were():
    net = nn.Sequential(nn.ReLU(inplace=True), HyperConv2d(3, 4, 3, generator=SMALL), nn.Sequential(nn.Dropout()))
    net[2].eval()
    modes, images = [part.training for part in net.modules()], torch.randn(2, 3, 8, 8)
    before = images.clone()
    bake(net, check=images)
    assert [part.training for part in net.modules()] == modes
    assert torch.equal(images, before)


def test_baking_in_training_mode_bakes_what_evaluation_computes():
    torch.manual_seed(0)
    layer = HyperConv2d(3, 4, 3, generator=partial(CoordinateMLP, norm="batchnorm"))
    images = torch.randn(1, 3, 8, 8)
    layer(images)
    baked = bake(layer, check=images)
    assert baked.training and layer.training
    torch.testing.assert_close(baked(images), layer.eval()(images))


def test_type_and_mode_are_kept():
    net = nn.Sequential(nn.Conv2d(3, 6, 3, dtype=torch.float64)).eval()
    hyper = hyperize(net, generator=SMALL)
    assert not hyper[0].training
    assert hyper(torch.randn(1, 3, 5, 5, dtype=torch.float64)).dtype == torch.float64
    assert bake(hyper)[0].weight.dtype == torch.float64


def test_baking_for_a_context():
    torch.manual_seed(0)
    net = nn.Sequential(
        HyperConv2d(3, 4, 3, bias="generated", generator=PER_SAMPLE["dense, tanh"]),
        HyperConvTranspose2d(4, 4, 3, generator=PER_SAMPLE["coordinate"]),
        HyperConv2d(4, 4, 3),
    )
    context, images = torch.randn(3), torch.randn(2, 3, 8, 8)
    expected = net[2](net[1](net[0](images, context), context=context))
    torch.testing.assert_close(bake(net, context, check=images)(images), expected)
    with pytest.raises(ValueError, match="needs a context of width 3, got none"):
        bake(net)
    with pytest.raises(ValueError, match=r"one context, \(context_dim,\); got \(2, 3\)"):
        bake(net, torch.randn(2, 3))


@pytest.mark.parametrize(
    "answer",
    (
        lambda x, hyper: x + 0.1 * hyper,
        lambda x, hyper: {"out": x.argmax(1) + hyper},
        lambda x, hyper: x + (0.0 if hyper else float("nan")),
        lambda x, hyper: (x, hyper),
        lambda x, hyper: (x,) * (1 + hyper),
    ),
    ids=("numbers", "integers", "NaN", "no tensor", "fewer"),
)
def test_bake_notices_when_the_result_is_another(answer):
    class ByKind(Answers):
        def forward(self, images):
            return self.answer(self.layer(images), isinstance(self.layer, convert.HyperLayer))

    with pytest.raises(RuntimeError, match="the baked network"):
        bake(ByKind(answer), check=torch.randn(1, 3, 8, 8))


def test_cached_kernels_are_generated_once_and_refuse_to_go_stale():
    torch.manual_seed(0)
    net = nn.Sequential(HyperConv2d(3, 4, 3), nn.ReLU(), HyperConv2d(4, 4, 3, generator=PER_SAMPLE["dense"]))
    images, contexts = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    calls = []
    hooks = [
        layer.generator.register_forward_hook(lambda *args: calls.append(1))  # which could not be pickled
        for layer in (net[0], net[2])
    ]
    with torch.no_grad():
        expected = net[2](net[1](net[0](images)), contexts)
        calls.clear()
        keys = list(net.state_dict())
        with cached(net, contexts):
            for _ in range(3):
                torch.testing.assert_close(net(images), expected)
            assert len(calls) == 2
            assert list(net.state_dict()) == keys
            with torch.enable_grad(), pytest.raises(RuntimeError, match="no gradients"):
                net(images)
            with pytest.raises(RuntimeError, match="another context"):
                net[2](net[0](images), torch.randn(2, 3))
            with pytest.raises(ValueError, match="2 contexts for 1 samples"):
                net(images[:1])
        for hook in hooks:
            hook.remove()
        with cached(net, contexts):
            twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
            with cached(net, contexts[:1]):
                torch.testing.assert_close(net(images[:1]), expected[:1])
            torch.testing.assert_close(net(images), expected)

        def scale_the_head():
            net[0].generator.head.mul_(2)

        def replace_a_parameter():
            net[0].generator.head = nn.Parameter(net[0].generator.head.clone())

        def replace_the_generator():
            net[0].generator = copy.deepcopy(net[0].generator)

        def load_other_weights():
            net.load_state_dict(copy.deepcopy(net).state_dict(), assign=True)

        for change in (
            scale_the_head,
            replace_a_parameter,
            replace_the_generator,
            load_other_weights,
            lambda: net[0].generator.eval(),
            net.double,
            net.float,
            contexts.zero_,
        ):
            with cached(net, contexts):
                change()
                with pytest.raises(RuntimeError, match="has changed since"):
                    net(images.to(next(net.parameters()).dtype))
            net.train()
        with cached(net, contexts), pytest.raises(RuntimeError, match="has changed since"):
            others = {name: value + 1 for name, value in net.state_dict().items()}
            torch.func.functional_call(net, others, (images,))
    for twin in twins:
        twin[0](images).sum().backward()
    with pytest.raises(ValueError, match="got none"), cached(net):
        pass
    net[0](images).sum().backward()


def test_resized_layer_responds_alike_to_an_image_of_another_resolution():
    torch.manual_seed(0)
    coarse = torch.randn(1, 3, 6, 6)
    coarse = nn.functional.interpolate(coarse, size=(30, 30), mode="bicubic")
    fine = nn.functional.interpolate(coarse, scale_factor=3, mode="bicubic")
    layer = HyperConv2d(3, 4, 5, padding=2)
    finer = resize(layer, 15)
    assert finer.padding == (7, 7)
    assert layer.weight.shape == (4, 3, 5, 5)
    with torch.no_grad():
        expected, actual = layer(coarse)[..., 5:-5, 5:-5], finer(fine)[..., 1::3, 1::3][..., 5:-5, 5:-5]
    assert (actual - expected).std() < 0.2 * expected.std()
    torch.testing.assert_close(resize(finer, 5).weight, layer.weight, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="padding 2 keeps the size of an image with 5 taps; with 8 no number does"):
        resize(layer, 8)
    assert resize(HyperConv1d(2, 2, 5, padding=1), 9).padding == (1,)
    assert resize(HyperConv1d(2, 2, 5, padding="same"), 9)(torch.zeros(1, 2, 20)).shape == (1, 2, 20)
    with pytest.raises(ValueError, match="not a ChunkedGenerator's"):
        resize(HyperConv2d(2, 2, 3, generator=ChunkedGenerator), 5)


def test_cost_counts_what_is_stored_and_computed():
    net = nn.Sequential(HyperConv2d(8, 16, 5, bias=False, generator=SMALL), nn.ReLU(), HyperConv2d(16, 16, 3))
    with pytest.warns(UserWarning, match="store more than the kernels they make: 2;"):
        table = cost(net, torch.zeros(2, 8, 12, 12))
    assert list(table.index) == ["0", "2", "sum"]
    assert table.loc["0", "stored"] == sum(p.numel() for p in net[0].parameters())
    assert table["baked"].tolist() == [3200, 16 * 16 * 9 + 16, 3200 + 16 * 16 * 9 + 16]
    assert table.loc["0", "apply"] == 2 * 2 * 8 * 8 * 16 * 8 * 25
    assert 0 < table.loc["0", "generate"] < table.loc["2", "generate"]
    assert list(cost(net[:1]).columns) == ["stored", "learned", "baked"]


def test_cost_counts_shared_layers_shared_generators_and_contexts():
    shared = ChunkedGenerator((4, 4), chunk_size=5)
    layers = [HyperLinear(4, 4, bias=False, generator=lambda shape, **factory: shared) for _ in range(3)]
    with pytest.warns(UserWarning, match="store more"):
        table = cost(nn.Sequential(*layers), torch.zeros(1, 4))
    assert table.loc["sum", "stored"] == sum(p.numel() for p in shared.parameters())
    assert table["apply"].tolist() == [32, 32, 32, 96]
    assert table["generate"].nunique() == 2
    layer = HyperConv2d(4, 4, 3, padding=1, generator=SMALL)
    net = nn.Sequential(layer, nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), layer))
    before = copy.deepcopy(net.state_dict())
    once, twice = (cost(each, torch.randn(1, 4, 8, 8)) for each in (nn.Sequential(layer), net))
    assert twice.loc["0", ["generate", "apply"]].tolist() == (2 * once.loc["0", ["generate", "apply"]]).tolist()
    torch.testing.assert_close(net.state_dict(), before)
    together = cost(GeneratedTogether(layer, layer), torch.randn(1, 4, 8, 8))
    assert together.loc["0", "generate"] == twice.loc["0", "generate"]
    dense = HyperConv2d(4, 4, 3, generator=PER_SAMPLE["dense"])
    with pytest.warns(UserWarning, match="store more"):
        table = cost(dense, torch.zeros(2, 4, 8, 8), torch.zeros(2, 3))
    assert table.loc["HyperConv2d", "apply"] > 0
    wide = HyperConv2d(256, 256, 5, padding=2, generator=SMALL)
    images = torch.zeros(4, 256, 4, 4)
    built, decomposed = (cost(wide, each) for each in (images, images.to(memory_format=torch.channels_last)))
    assert 0 < decomposed.loc["HyperConv2d", "generate"] < built.loc["HyperConv2d", "generate"]
    assert 0 < decomposed.loc["HyperConv2d", "apply"] < built.loc["HyperConv2d", "apply"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the kernel that a layer started at is not its generator's
        cost(hyperize(nn.Conv2d(8, 8, 5), generator=SMALL, keep_function=True))


@pytest.mark.parametrize(("contexts", "batches"), (((2,), (1, 2, 7)), ((4, 2), (4,))))
def test_a_stateless_generator_runs_in_onnxruntime_with_any_context(contexts, batches, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
    torch.manual_seed(0)
    generator = partial(CoordinateMLP, context_dim=2, norm="stateless")
    layer = HyperConv2d(3, 4, 5, padding=2, generator=generator).eval()
    file = tmp_path / "layer.onnx"
    sizes = ({0: torch.export.Dim("batch")}, None) if len(batches) > 1 else None
    arguments = (torch.randn(4, 3, 8, 8), torch.randn(contexts))
    torch.onnx.export(layer, arguments, file, dynamo=True, dynamic_shapes=sizes, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    for size in batches:
        images, context = torch.randn(size, 3, 8, 8), torch.randn(contexts)
        (output,) = session.run(None, dict(zip(names, (images.numpy(), context.numpy()), strict=True)))
        torch.testing.assert_close(torch.from_numpy(output), layer(images, context).detach(), rtol=1e-4, atol=1e-5)


def test_a_baked_model_runs_in_onnxruntime_at_any_batch_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(HyperConv2d(3, 4, 5, padding=2), nn.ReLU(), HyperConvTranspose2d(4, 2, 3, stride=2)).eval()
    baked = bake(net)
    file = tmp_path / "net.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(baked, (torch.randn(2, 3, 8, 8),), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for size in (1, 2, 7):
        images = torch.randn(size, 3, 8, 8)
        (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), net(images).detach(), rtol=1e-5, atol=1e-5)

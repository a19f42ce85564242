import copy
import pickle
from functools import partial

import pytest
import torch
from generators import EVERY, PER_SAMPLE, SHARED, context_for
from torch import nn
from torch.nn.utils import prune

from hyperconv import (
    ChunkedGenerator,
    CoordinateMLP,
    DenseGenerator,
    EmbeddingGenerator,
    HyperConv2d,
    LowRankGenerator,
    StartAtKernel,
    TileNetwork,
    kernel_grid,
    magnitude_invariant,
)

SHAPES = ((16, 16, 3), (16, 16, 31), (16, 8, 5, 5), (32, 1, 3, 3), (8, 8, 31, 31), (16, 16, 3, 3, 3), (8, 8, 7, 7, 7))
SCALED = [name for name in EVERY if "started" not in name and "tanh" not in name]


@pytest.mark.parametrize("init", ("torch", "hyperfan-in", "hyperfan-out", "hyperfan"))
@pytest.mark.parametrize("name", SCALED)
def test_initial_kernels_have_the_scale_of_their_init(name, init):
    torch.manual_seed(0)
    for shape in SHAPES if init == "torch" else SHAPES[2:3]:
        squares = []
        for _ in range(20):
            generator = EVERY[name](shape, init=init)
            with torch.no_grad():
                squares.append(generator(context_for(generator, 64)).square().mean())
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
        variance = {
            "torch": 1 / (3 * fan_in),
            "hyperfan-in": 2 / fan_in,
            "hyperfan-out": 2 / fan_out,
            "hyperfan": 1 / ((fan_in / 2 + fan_out / 2) / 2),
        }[init]
        assert torch.stack(squares).mean().sqrt().item() == pytest.approx(variance**0.5, rel=0.1), shape


def test_twenty_hyper_layers_keep_a_signal_as_plain_ones_do():
    images = torch.randn(4, 16, 12, 12, generator=torch.Generator().manual_seed(0))

    def typical_output(layer):
        """The median over networks: a single deep one may by chance be far off, plain or not."""
        outputs = []
        for seed in range(9):
            torch.manual_seed(seed)
            network = nn.Sequential(*(nn.Sequential(layer(16, 16, 5, padding=2), nn.ReLU()) for _ in range(20)))
            outputs.append(network(images).std())
        return torch.stack(outputs).median().item()

    with torch.no_grad():
        plain = typical_output(nn.Conv2d)
        for name, generator in SHARED.items():
            if name != "started":
                ratio = typical_output(partial(HyperConv2d, generator=generator)) / plain
                assert 1 / 3 < ratio < 3, name


def test_hyperfan_keeps_signals_and_gradients_through_twenty_relu_layers():
    images = torch.randn(4, 32, 6, 6, generator=torch.Generator().manual_seed(0))

    def energies(init):
        """Median over networks of mean squares: of the output, and of the loss' gradient at the input."""
        outputs, gradients = [], []
        for seed in range(7):
            torch.manual_seed(seed)
            convolution = partial(HyperConv2d, 32, 32, 3, padding=1, padding_mode="circular", bias=False)
            generator = partial(DenseGenerator, init=init)
            layers = [nn.Sequential(convolution(generator=generator), nn.ReLU()) for _ in range(20)]
            leaf = images.clone().requires_grad_()
            output = nn.Sequential(*layers)(leaf)
            (gradient,) = torch.autograd.grad(output, leaf, torch.randn(output.shape))
            outputs.append(output.square().mean())
            gradients.append(gradient.square().mean())
        return torch.stack(outputs).median().item(), torch.stack(gradients).median().item()

    for energy in (energies("hyperfan-in")[0], energies("hyperfan-out")[1], *energies("hyperfan")):
        assert 1 / 5 < energy < 5
    # half the variance, as for generated biases, would lose a factor of 2 a layer; that of torch loses 6
    assert energies("torch")[0] < 1e-10


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_right_and_reach_every_parameter(name):
    torch.manual_seed(0)
    generator = EVERY[name]((3, 2, 3, 2), dtype=torch.float64)
    names, values = zip(*((n, p) for n, p in generator.named_parameters() if p.requires_grad), strict=True)
    # away from where a generator that starts at zero has no gradient yet
    values = tuple((value + 0.1 * torch.randn_like(value)).detach().requires_grad_() for value in values)
    for samples in (None, 2):
        context = context_for(generator, samples, dtype=torch.float64)

        def run(*values, context=context):
            return torch.func.functional_call(generator, dict(zip(names, values, strict=True)), (context,))

        assert torch.autograd.gradcheck(run, values)
        gradients = torch.autograd.grad(run(*values).pow(3).sum(), values)
        assert all(gradient.abs().sum() > 0 for gradient in gradients), name


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_batch_of_contexts_gives_each_its_kernel(name):
    torch.manual_seed(0)
    for shape in ((4, 3, 5), (4, 3, 3, 3), (2, 3, 1, 3, 2)):
        generator = PER_SAMPLE[name](shape)
        contexts = context_for(generator, 5)
        kernels = generator(contexts)
        assert kernels.shape == (5, *shape)
        torch.testing.assert_close(kernels, torch.stack([generator(context) for context in contexts]))
        if "started" not in name:
            assert (kernels[0] - kernels[1]).abs().max() > 0


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_factors_multiply_to_the_kernels(name):
    torch.manual_seed(0)
    generator = PER_SAMPLE[name]((4, 3, 3, 3))
    contexts = context_for(generator, 5)
    linear = (name.startswith("dense") and "tanh" not in name) or name == "started"
    assert (generator.factor_count is not None) == linear
    if linear:
        factors = generator.mixture(contexts)
        assert len(factors.basis) == generator.factor_count
        torch.testing.assert_close(factors.build(), generator(contexts))


@pytest.mark.parametrize("name", EVERY)
def test_state_dict_deepcopy_and_pickle_keep_the_kernel(name):
    torch.manual_seed(0)
    generator = EVERY[name]((4, 3, 3, 3))
    context = context_for(generator)
    expected = generator(context)
    assert set(generator.state_dict()) == {name for name, _ in generator.named_parameters(remove_duplicate=False)}
    other = EVERY[name]((4, 3, 3, 3))
    other.load_state_dict(generator.state_dict())
    twins = [other, copy.deepcopy(generator)]
    if "started" not in name:
        twins.append(pickle.loads(pickle.dumps(generator)))
    for twin in twins:
        assert torch.equal(twin(context), expected)
        assert torch.equal(twin.eval()(context), expected)


@pytest.mark.parametrize("name", EVERY)
def test_zero_output_is_zero_and_can_learn(name):
    torch.manual_seed(0)
    generator = EVERY[name]((4, 3, 3, 3))
    generator.zero_output_()
    context = context_for(generator, 2)
    kernel = generator(context)
    assert kernel.abs().max() == 0
    (kernel * torch.randn_like(kernel)).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_starting_at_a_kernel_is_exact_and_reset_returns_to_it():
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, 3, 3)
    for generator in PER_SAMPLE.values():
        started = StartAtKernel(generator((4, 3, 3, 3)), kernel)
        contexts = context_for(started.generator, 2)
        assert torch.equal(started(contexts), kernel.expand(2, -1, -1, -1, -1))
        nn.init.normal_(next(started.generator.parameters()))
        started.reset_parameters()
        assert torch.equal(started(contexts)[0], kernel)
    # parametrisations and pruning come as hooks
    started.generator.register_forward_hook(lambda module, arguments, kernels: torch.full_like(kernels, 2.0))
    assert torch.equal(started(contexts)[0], kernel + 2)
    with pytest.raises(ValueError, match=r"a kernel \(4, 3, 3\) to start at, but \(4, 3, 3, 3\)"):
        StartAtKernel(CoordinateMLP((4, 3, 3, 3)), torch.zeros(4, 3, 3))


def test_chunks_fill_the_kernel_exactly():
    for shape, size, chunks in (((50, 10), 64, 8), ((8, 8), 64, 1), ((8, 8), 63, 2), ((4, 4), 1000, 1)):
        generator = ChunkedGenerator(shape, chunk_size=size)
        assert len(generator.embeddings) == chunks
        assert generator().shape == shape
        # every number is made by its own chunk and place
        assert generator().unique().numel() == shape[0] * shape[1]


def test_decorrelated_chunks_are_mixtures_of_the_same_features():
    torch.manual_seed(0)
    plain, decorrelated = (
        ChunkedGenerator((50, 20), chunk_size=50, norm=norm, dtype=torch.float64) for norm in ("none", "decorrelated")
    )
    decorrelated.load_state_dict(plain.state_dict())
    features, made = plain._features(None), decorrelated._features(None)
    torch.testing.assert_close(made.mean(0), torch.zeros(16, dtype=torch.float64))
    # all of the plain generator's chunks are within reach
    reach = torch.cat([made, torch.ones(20, 1, dtype=torch.float64)], dim=1)
    mixing = torch.linalg.lstsq(reach, features).solution
    torch.testing.assert_close(reach @ mixing, features)
    strengths = torch.linalg.eigvalsh(made.mT @ made / 20)
    before = torch.linalg.eigvalsh(torch.cov(features.mT, correction=0))
    assert strengths[-1] / strengths[8] < 2 < 10 < before[-1] / before[8]
    alone = ChunkedGenerator((8, 8), chunk_size=64, norm="decorrelated")
    torch.testing.assert_close(alone().std().item(), alone.kernel_std, rtol=0.3, atol=0.0)


def test_static_hypernetwork_has_the_published_parameters_and_tiles_larger_kernels():
    torch.manual_seed(0)
    generator = EmbeddingGenerator((16, 16, 7, 7), embedding_dim=4)
    assert sum(p.numel() for p in generator.parameters()) == 4_244
    network = TileNetwork((16, 16), (3, 3))
    wide = EmbeddingGenerator((40, 16, 3, 3), network=network)
    kernel = wide()
    assert wide.embeddings.shape == (3, 1, 4)
    for row in range(3):
        tile = network(wide.embeddings[row, 0]) * wide.kernel_std
        torch.testing.assert_close(kernel[16 * row : 16 * (row + 1)], tile[: min(16, 40 - 16 * row)])


def test_a_shared_network_serves_layers_of_several_widths():
    network = TileNetwork((8, 8), (3, 3))
    first, second = (EmbeddingGenerator((o, i, 3, 3), network=network) for o, i in ((8, 8), (20, 12)))
    (first().sum() + second().sum()).backward()
    assert network.outer_weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"size \(3, 3\), but \(5, 5\) is needed"):
        EmbeddingGenerator((8, 8, 5, 5), network=network)


def test_tile_is_the_published_formula():
    torch.manual_seed(0)
    network = TileNetwork((5, 4), (3, 2), embedding_dim=6)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    z = torch.randn(6)
    tile = network(z)
    for i in range(4):
        a = network.inner_weight[i].T @ z + network.inner_bias[i]
        expected = (network.outer_weight.flatten(1).T @ a + network.outer_bias.flatten()).view(5, 3, 2)
        torch.testing.assert_close(tile[:, i], expected)


def test_film_leaves_the_trunk_alone_where_the_context_says_nothing():
    torch.manual_seed(0)
    generator = CoordinateMLP((4, 3, 3, 3), context_dim=2, conditioning="film")
    nn.init.zeros_(generator.film.weight)
    nn.init.zeros_(generator.film.bias)
    plain = CoordinateMLP((4, 3, 3, 3))
    plain.load_state_dict({name: value for name, value in generator.state_dict().items() if "film" not in name})
    torch.testing.assert_close(generator(torch.randn(2)), plain())


def test_conditioned_kernels_are_functions_of_position_too():
    torch.manual_seed(0)
    for conditioning in ("concat", "film"):
        generator = CoordinateMLP((4, 3, 3, 3), context_dim=2, conditioning=conditioning)
        contexts = torch.randn(5, 2)
        fine = generator.sample(kernel_grid((9, 9)) / 3, contexts).unflatten(2, (9, 9)).movedim(-1, 2)
        torch.testing.assert_close(fine[..., 1::3, 1::3], generator(contexts))


def test_magnitude_invariant_code_has_constant_norm():
    code = magnitude_invariant(torch.rand(10, 3))
    assert code.shape == (10, 6)
    torch.testing.assert_close(code.square().sum(1), torch.full((10,), 3.0))


def test_resized_kernel_is_the_same_function_with_the_same_integral():
    torch.manual_seed(0)
    for encoding in ("raw", "fourier", "siren"):
        for norm in ("decorrelated", "stateless", "none"):
            generator = CoordinateMLP((4, 3, 9, 9), norm=norm, encoding=encoding, context_dim=2)
            context = torch.randn(2)
            finer = generator.resized((27, 27))
            kernel = generator(context)
            torch.testing.assert_close(finer(context)[..., 1::3, 1::3] * 9, kernel, atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(finer.resized((9, 9))(context), kernel, atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(
                finer.resized((3, 3))(context) / 9, kernel[..., 1::3, 1::3], atol=1e-5, rtol=1e-3
            )
            grid = finer.grid.clone()
            finer.reset_parameters()
            assert torch.equal(finer.grid, grid)
    smooth = CoordinateMLP((4, 3, 9, 9), norm="none")
    nn.init.normal_(smooth.mean)
    torch.testing.assert_close(smooth.resized((45, 45))().sum((2, 3)), smooth().sum((2, 3)), rtol=0.1, atol=0.05)
    with pytest.raises(ValueError, match=r"\(9, 9\) taps cannot be sampled at \(3,\)"):
        smooth.resized((3,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseGenerator(()), r"all 1 or more; got \(\)"),
        (lambda: DenseGenerator((3, 0)), r"all 1 or more; got \(3, 0\)"),
        (lambda: DenseGenerator((3, 3), context_dim=0), "context_dim must be 1 or more, or None; got 0"),
        (lambda: DenseGenerator((3, 3), hidden=(4, 0)), r"got 8 inputs and hidden widths \(4, 0\)"),
        (lambda: DenseGenerator((3, 3), embedding_dim=0), "must be 1 or more, got 0 inputs"),
        (lambda: DenseGenerator((3, 3), encode_context="magnitude-invariant"), "needs a context_dim"),
        (lambda: CoordinateMLP((3, 3, 3), conditioning="film"), "'film' needs a context_dim"),
        (lambda: DenseGenerator((3, 3), init="he"), "init must be one of torch, .*; got 'he'"),
        (lambda: DenseGenerator((3, 3), encode_context="fourier"), "encode_context must be .* got 'fourier'"),
        (lambda: ChunkedGenerator((3, 3), chunk_size=0), "chunk_size and embedding_dim must be 1 or more, got 0 and 8"),
        (lambda: ChunkedGenerator((3, 3), norm="stateless"), "norm must be one of decorrelated, none; got 'stateless'"),
        (
            lambda: ChunkedGenerator((3, 3), 2, norm="decorrelated"),
            "would drop what a context says to all chunks alike",
        ),
        (lambda: LowRankGenerator((3,)), r"shape \(3,\) has no low-rank form"),
        (lambda: LowRankGenerator((3, 3), rank=0), "rank must be 1 or more, got 0"),
        (lambda: EmbeddingGenerator((3,)), r"shape \(3,\) has none"),
        (lambda: TileNetwork((0, 4), (3, 3)), r"must be 1 or more, got \(0, 4\)"),
        (lambda: CoordinateMLP((3, 3)), r"one axis or more in k, got \(3, 3\)"),
        (lambda: CoordinateMLP((3, 3, 3), encoding="wave"), "encoding must be one of .*; got 'wave'"),
        (lambda: CoordinateMLP((3, 3, 3), conditioning="add"), "conditioning must be one of .*; got 'add'"),
        (lambda: CoordinateMLP((3, 3, 3), norm="batchnorm", context_dim=2), "mix the statistics of all contexts"),
        (lambda: DenseGenerator((3, 3), context_dim=4)(), "DenseGenerator needs a context of width 4, got none"),
        (lambda: DenseGenerator((3, 3), context_dim=4)(torch.zeros(2, 5)), r"or \(B, 4\), got \(2, 5\)"),
        (lambda: DenseGenerator((3, 3))(torch.zeros(2, 5)), r"takes no context, got one of shape \(2, 5\)"),
    ],
)
def test_bad_calls_name_the_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_everything_is_made_on_the_device_and_in_the_type_asked_for():
    for name, make in EVERY.items():
        generator = make((4, 3, 3, 3), dtype=torch.float64)
        assert {value.dtype for value in generator.state_dict().values()} == {torch.float64}, name
        assert generator(context_for(generator)).dtype == torch.float64, name
        if "started" not in name:
            made = partial(make, device="meta")((4, 3, 3, 3))
            assert {value.device.type for value in made.state_dict().values()} == {"meta"}, name


@pytest.mark.parametrize("name", [name for name in EVERY if "coordinate" in name])
@pytest.mark.parametrize("shape", ((6, 4, 3), (6, 4, 3, 5), (6, 4, 3, 1, 2)))
def test_filters_mixed_are_the_kernel(name, shape):
    torch.manual_seed(0)
    generator = EVERY[name](shape, dtype=torch.float64)
    context = context_for(generator, dtype=torch.float64)
    made = generator.filter_mixture(context)
    assert len(made.filters) == generator.filter_count
    torch.testing.assert_close(made.build(), generator(context))


def test_parts_do_not_stand_for_what_a_subclass_or_a_hook_changes():
    class Masked(CoordinateMLP):
        def generate(self, context):
            return super().generate(context).tril()

    class MaskedThroughout(Masked):
        def filters(self, context):
            return super().filters(context)

    class Doubled(DenseGenerator):
        def forward(self, context=None):
            return 2 * super().forward(context)

    shape = (4, 4, 3, 3)
    assert CoordinateMLP(shape).parts(per_sample=False) == 17
    assert DenseGenerator(shape, context_dim=2).parts(per_sample=True) == 3
    assert DenseGenerator(shape, context_dim=2).parts(per_sample=False) is None
    assert MaskedThroughout(shape).parts(per_sample=False)
    assert not Masked(shape).parts(per_sample=False)
    assert not Doubled(shape, context_dim=2).parts(per_sample=True)
    assert not StartAtKernel(Doubled(shape, context_dim=2), torch.zeros(shape)).parts(per_sample=True)
    replaced, pruned = CoordinateMLP(shape), CoordinateMLP(shape)
    replaced.forward = lambda context=None: torch.zeros(shape)
    prune.l1_unstructured(pruned, "head", 0.5)
    assert not replaced.parts(per_sample=False)
    assert not pruned.parts(per_sample=False)
    for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
        hooked = CoordinateMLP(shape)
        getattr(hooked.trunk, f"register_{kind}_hook")(lambda *_: None)
        assert not hooked.parts(per_sample=False)
    assert not CoordinateMLP(shape, norm="batchnorm").parts(per_sample=False)
    assert not DenseGenerator(shape).parts(per_sample=False)


@pytest.mark.parametrize(
    "kind", (ChunkedGenerator, partial(DenseGenerator, hidden=(4,)), partial(LowRankGenerator, hidden=(4,)))
)
def test_hidden_layers_of_complex_numbers_are_refused_in_words(kind):
    with pytest.raises(ValueError, match="real activations"):
        kind((4, 4, 3, 3), dtype=torch.complex64)


@pytest.mark.parametrize("kind", [DenseGenerator, partial(LowRankGenerator, rank=2)])
def test_a_generator_without_hidden_layers_may_be_complex(kind):
    torch.manual_seed(0)
    squares = []
    for _ in range(20):
        generator = kind((16, 24, 3), 5, dtype=torch.complex64)
        kernels = generator(torch.randn(64, 5, dtype=torch.complex64)).detach()
        assert kernels.dtype == torch.complex64
        squares.append(kernels.abs().square().mean())
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(generator.kernel_std, rel=0.1)

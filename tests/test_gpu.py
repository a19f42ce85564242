"""What only a GPU can show, beside the layers' own tests there; `pytest -m gpu` runs both."""

import csv
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperconv import (
    CoordinateMLP,
    DenseGenerator,
    GeneratedTogether,
    HyperConv2d,
    HyperLinear,
    bake,
    cached,
    local_filter,
)
from hyperconv.zoo.digit_classifier import digit_classifier

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ARMS = {"hyper": partial(HyperConv2d, bias=False), "normal": nn.Conv2d}
nearly = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 rounds the inputs of float32 products to 10 bits."""
    torch.manual_seed(0)
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [each.allow_tf32 for each in settings]
    for each in settings:
        each.allow_tf32 = False
    yield
    for each, value in zip(settings, before, strict=True):
        each.allow_tf32 = value


class PerSample(nn.Module):
    """A kernel a sample in a convolution and in a linear layer."""

    def __init__(self, generator):
        super().__init__()
        self.convolution = HyperConv2d(1, 8, 5, stride=2, bias="generated", generator=generator)
        self.linear = HyperLinear(8, 10, generator=partial(DenseGenerator, context_dim=4))

    def forward(self, images, context):
        hidden = self.convolution(images, context).relu().mean(dim=(2, 3))
        return self.linear(hidden, context)


NETWORKS = {
    **{name: (partial(digit_classifier, conv_layer=layer), ()) for name, layer in ARMS.items()},
    "per sample": (partial(PerSample, partial(DenseGenerator, context_dim=4)), (4,)),
}


def inputs(context, dtype=torch.float32):
    images = torch.rand(16, 1, 28, 28, dtype=dtype)
    return images, *(torch.randn(16, width, dtype=dtype) for width in context)


def outcome(run, network, arguments):
    """Logits, the loss's gradients, and the weights after a step of Adam."""
    labels = torch.arange(16, device=arguments[0].device) % 10
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-3, fused=True)
    logits = run(*arguments)
    F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels).backward()
    optimizer.step()
    return (
        logits.detach(),
        [weight.grad for weight in network.parameters()],
        [weight.detach() for weight in network.parameters()],
    )


@pytest.mark.parametrize(("make", "context"), NETWORKS.values(), ids=NETWORKS)
def test_a_training_step_is_the_same_on_cpu_and_gpu(make, context):
    network, arguments = make().double(), inputs(context, torch.float64)
    twin = make().double()
    twin.load_state_dict(network.state_dict())
    here = outcome(network, network, arguments)
    twin.cuda()
    there = outcome(twin, twin, [each.cuda() for each in arguments])
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9, check_device=False)


@pytest.mark.parametrize(("make", "context"), (NETWORKS["hyper"], NETWORKS["per sample"]), ids=("hyper", "per sample"))
def test_a_compiled_training_step_is_that_of_the_network(make, context):
    torch.compiler.reset()
    network, arguments = make().cuda(), [each.cuda() for each in inputs(context)]
    twin = make().cuda()
    twin.load_state_dict(network.state_dict())
    logits, gradients, _ = outcome(network, network, arguments)
    compiled_logits, compiled_gradients, _ = outcome(torch.compile(twin, fullgraph=True), twin, arguments)
    nearly(compiled_logits, logits)
    for ours, theirs in zip(gradients, compiled_gradients, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-2, atol=1e-3 * max(1.0, ours.abs().max().item()))


@pytest.mark.parametrize(("make", "context"), NETWORKS.values(), ids=NETWORKS)
def test_bfloat16_autocast_trains_near_float32(make, context):
    network, arguments = make().cuda(), [each.cuda() for each in inputs(context)]
    expected = network(*arguments)
    with torch.autocast("cuda", torch.bfloat16):
        logits = network(*arguments)
    assert logits.dtype == torch.bfloat16
    # seventeen convolutions of 8 bits each
    assert (logits.float() - expected).std() < 0.3 * expected.std()
    F.cross_entropy(logits.float(), torch.arange(16, device="cuda") % 10).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.dtype == torch.float32, name
        assert weight.grad.isfinite().all(), name


def test_autocast_does_not_round_what_a_kernel_is_computed_from():
    layer = HyperConv2d(8, 8, 5, generator=CoordinateMLP, device="cuda")
    expected = layer.generator()
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(layer.generator(), expected)


def peak(run):
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize(("backward", "most"), ((False, 0.05), (True, 0.5)))
def test_local_filters_need_a_part_of_unfoldings_memory(backward, most):
    kernel, batch, size = 9, 16, 64
    images = torch.randn(batch, 1, size, size, device="cuda", requires_grad=backward)
    filters = torch.randn(batch, kernel**2, size, size, device="cuda", requires_grad=backward)

    def unfolding(images, filters, kernel):
        patches = F.unfold(images, kernel, padding=kernel // 2).view_as(filters)
        return (patches * filters).sum(dim=1, keepdim=True)

    def step(run):
        output = run(images, filters, kernel)
        return (output, *torch.autograd.grad(output.square().sum(), (images, filters))) if backward else output

    torch.testing.assert_close(step(local_filter), step(unfolding), rtol=1e-4, atol=1e-3)
    assert peak(lambda: step(local_filter)) <= most * peak(lambda: step(unfolding))


def test_baked_cached_and_generated_kernels_agree():
    network = GeneratedTogether(digit_classifier(conv_layer=ARMS["hyper"])).cuda().eval()
    images = inputs(())[0].cuda()
    with torch.no_grad():
        expected = network(images)
        nearly(bake(network)(images), expected)
        with cached(network):
            nearly(network(images), expected)


def test_benchmarks_yield_rows_in_every_arithmetic(tmp_path):
    file = tmp_path / "figures.csv"
    flags = ("--device", "cuda", "--minutes", "0.5", "--quick", "--csv", str(file))
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / "all.py"), *flags], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["dtype"] for row in rows} == {"float32", "float32 (tf32)", "bfloat16"}
    assert {"train_step", "layers", "decomposition", "per_sample", "local_filter"} <= {row["benchmark"] for row in rows}
    assert all(0 < float(row["ratio"]) < float("inf") for row in rows)
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}

"""Adapters of one context, as the peft library reads them."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

from hyperconv import DenseGenerator, LowRankGenerator, conditional, to_peft

peft = pytest.importorskip("peft", reason="needs peft")
transformers = pytest.importorskip("transformers", reason="needs transformers")
THIN = partial(LowRankGenerator, rank=3)


def adapted(network, generator=THIN, **settings):
    told = conditional(network, 2, **{"generator": generator, "keep_function": "shared", **settings}).eval()
    with torch.no_grad():
        for parameter in told.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return told


def llama():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=50, num_hidden_layers=2, **sizes)
    return transformers.LlamaForCausalLM(config).eval()


def bert():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, num_hidden_layers=2, **sizes)).eval()


def by_width(shape, **options):
    return LowRankGenerator(shape, rank=2 if shape[0] > 40 else 4, **options)


@pytest.mark.parametrize("generator", (THIN, by_width), ids=("one rank", "two ranks"))
@pytest.mark.parametrize(
    ("make", "select"),
    (
        (llama, lambda name, layer: "_proj" in name),
        (llama, lambda name, layer: name.endswith(("q_proj", "lm_head"))),
        (bert, lambda name, layer: True),
    ),
    ids=("llama", "llama, some", "bert, all"),
)
def test_peft_computes_what_the_network_computes_for_that_context(make, select, generator, tmp_path):
    torch.manual_seed(0)
    original = make()
    told = adapted(original, generator, select=select)
    tokens, context = torch.randint(50, (2, 7)), torch.randn(2)
    with torch.no_grad():
        expected, before = told(tokens, context=context)[0], original(tokens)[0]
        to_peft(told, context, tmp_path / "adapter")
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "adapter").eval()
        assert (expected - before).abs().max() > 0.01
        torch.testing.assert_close(loaded(tokens)[0], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loaded.merge_and_unload()(tokens)[0], expected, rtol=1e-5, atol=1e-5)
        # again, for another context, in the same place
        to_peft(told, context + 1, tmp_path / "adapter")
        other = peft.PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "adapter").eval()
        torch.testing.assert_close(other(tokens)[0], told(tokens, context=context + 1)[0], rtol=1e-5, atol=1e-5)
    assert {each.name for each in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_any_network_of_linear_layers_in_half_precision_too(tmp_path):
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4, bias=False))).bfloat16()
    told = adapted(network)
    to_peft(told, torch.randn(2), tmp_path / "a" / "b")
    loaded = peft.PeftModel.from_pretrained(network, tmp_path / "a" / "b")
    assert loaded.base_model.model[0].lora_A["default"].weight.shape == (3, 6)
    config = json.loads((tmp_path / "a" / "b" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 3, "0|2\\.0")


@torch.no_grad()
def test_names_that_end_alike_are_told_apart(tmp_path):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5)))
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), inner)
    # "0" and "1" end other names, too; the first layer has a rank of its own
    told = conditional(
        network,
        2,
        select=lambda name, layer: name in ("0", "1", "2.1"),
        generator=lambda shape, **more: LowRankGenerator(shape, rank=2 if shape[1] == 6 else 4, **more),
        keep_function="shared",
    )
    for parameter in told.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    input, context = torch.randn(3, 6), torch.randn(2)
    expected = told(input, context=context)
    assert (expected - network(input)).abs().max() > 0.01
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".partial-left-by-a-killed-process").write_text("")
    to_peft(told, context, tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(network), tmp_path / "a").eval()
    torch.testing.assert_close(loaded(input), expected, rtol=1e-5, atol=1e-5)


class ReadsItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, input):
        return nn.functional.linear(input, self.layer.weight, self.layer.bias)


def test_a_layer_whose_weight_is_read_is_found_by_a_call(tmp_path):
    told = adapted(nn.Sequential(ReadsItsWeight()))
    with pytest.raises(ValueError, match=r"layer 0\.layer: the network reads its weight"):
        to_peft(told, torch.randn(2), tmp_path / "a", check=torch.randn(3, 6))
    assert not (tmp_path / "a").exists()
    to_peft(adapted(nn.Sequential(nn.Linear(6, 4))), torch.randn(2), tmp_path / "a", check=torch.randn(3, 6))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (
            lambda: adapted(nn.Sequential(nn.Conv2d(3, 4, 3))),
            r"layer 0: .* linear layers only, and this is a HyperConv2d",
        ),
        (lambda: adapted(nn.Sequential(nn.Linear(3, 4)), DenseGenerator), "layer 0: its StartAtKernel does more"),
        (lambda: adapted(nn.Sequential(nn.Linear(3, 4)), keep_function=True), "layer 0: its StartAtKernel does more"),
        (
            lambda: adapted(nn.Sequential(nn.Linear(3, 4)), keep_function=False),
            "layer 0: its LowRankGenerator does more",
        ),
        (lambda: adapted(Twice()), r"layer first: it stands in several places \(first, second\)"),
        (lambda: adapted(nn.Linear(3, 4)), "layer HyperLinear: it is all of the network"),
        (
            lambda: adapted(nn.TransformerEncoderLayer(8, 2, 16)),
            "layer self_attn.out_proj: nn.MultiheadAttention reads its weight",
        ),
        (
            lambda: adapted(nn.TransformerEncoderLayer(8, 2, 16), select=lambda name, layer: name == "linear1"),
            "layer linear1: nn.TransformerEncoderLayer reads its weight",
        ),
        (lambda: nn.Linear(3, 4), "those of a conditional network, not of a Linear"),
    ),
)
def test_what_peft_would_not_compute_is_refused_and_nothing_written(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_peft(make(), torch.randn(2), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_contexts_a_sample_and_folders_with_other_files_are_refused(tmp_path):
    told = adapted(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(ValueError, match=r"one context, \(context_dim,\); got \(5, 2\)"):
        to_peft(told, torch.randn(5, 2), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"takes a context \(2,\)"):
        to_peft(told, torch.randn(3), tmp_path / "adapter")
    assert not any(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="holds other files than an adapter's"):
            to_peft(told, torch.randn(2), folder)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]

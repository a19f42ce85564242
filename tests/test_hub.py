"""Networks as folders: written, found again, and refused in a line where they are not what they say."""

import json
import struct
from functools import partial

import pytest
import torch
from torch import nn

from hyperconv import (
    CoordinateMLP,
    EmbeddingGenerator,
    HyperConv2d,
    LowRankGenerator,
    TileNetwork,
    conditional,
    hyperize,
)
from hyperconv.errors import InputError

hub = pytest.importorskip("hyperconv.hub", reason="needs huggingface_hub and safetensors")
HubNetwork = hub.HubNetwork
THIN = {"generator": "LowRankGenerator", "rank": 2}


def changed(network):
    """No longer as it was drawn."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return network.eval()


def assert_comes_back(network, folder, *inputs, **named):
    changed(network)
    expected = network(*inputs, **named)
    network.save_pretrained(folder)
    assert {each.name for each in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    state = torch.get_rng_state()
    found = HubNetwork.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.training and found.config == network.config
    torch.testing.assert_close(found(*inputs, **named), expected, rtol=0, atol=0)
    return found


def test_a_network_whose_sizes_are_computed_with_tensors_is_found_again(tmp_path):
    network, images = HubNetwork("torchvision/regnet_x_400mf", {"num_classes": 3}).eval(), torch.rand(1, 3, 32, 32)
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(HubNetwork.from_pretrained(tmp_path)(images), network(images), rtol=0, atol=0)


def test_files_are_as_readable_as_any_and_plain_values_only(tmp_path):
    HubNetwork("mlp/chunked").save_pretrained(tmp_path / "a")
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "a").iterdir()}
    assert modes == {(tmp_path / "usual").stat().st_mode}
    with pytest.raises(InputError, match="a config holds plain values only"):
        HubNetwork(nn.Linear(2, 2), trained={"figures": {1, 2}})


@pytest.mark.parametrize(
    ("name", "arguments", "make_inputs"),
    (
        ("mlp/chunked", None, lambda: (torch.randn(2, 1, 28, 28),)),
        ("digits/hyper", {"kernel_size": 3, "hidden": [4, 4]}, lambda: (torch.randn(2, 1, 28, 28),)),
        (
            "zoo/DynamicConvolutionalLayer",
            {"frames": 4, "reach": 3, "widths": [4, 4]},
            lambda: (torch.rand(2, 4, 16, 16),),
        ),
        (
            "zoo/DeepHyperCNN",
            {"depth": 2, "context_dim": 2, "generator": {"generator": "DenseGenerator", "context_dim": 8}},
            lambda: (torch.randn(3, 1, 28, 28), torch.randn(3, 2)),
        ),
        ("torchvision/squeezenet1_1", {"num_classes": 4}, lambda: (torch.randn(1, 3, 64, 64),)),
    ),
)
def test_networks_of_the_zoo_of_experiments_and_of_torchvision_come_back(name, arguments, make_inputs, tmp_path):
    torch.manual_seed(0)
    assert_comes_back(HubNetwork(name, arguments), tmp_path / "a" / "b", *make_inputs())


@pytest.mark.parametrize("keep_function", (False, True, "shared"))
def test_hyperized_and_conditional_networks_come_back(keep_function, tmp_path):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    some = {"layers": ["features.0", "features.3.expand3x3"], "keep_function": keep_function}
    hyper = HubNetwork("torchvision/squeezenet1_1", {"num_classes": 3}, hyperize=some)
    assert isinstance(hyper.network.features[0].generator, nn.Module)
    assert_comes_back(hyper, tmp_path / "hyper", images)
    settings = {**some, "context_dim": 2, "hidden": [8, 4], "generator": THIN}
    told = HubNetwork("torchvision/squeezenet1_1", {"num_classes": 3}, conditional=settings)
    found = assert_comes_back(told, tmp_path / "told", images, context=torch.randn(2, 2))
    assert {
        name
        for name, part in found.network.network.named_modules()
        if hasattr(part, "generator") and "gener" not in name
    } == set(some["layers"])


def tiled():
    shared = partial(EmbeddingGenerator, network=TileNetwork((4, 4), (3, 3)))
    return nn.Sequential(*(HyperConv2d(4, 4, 3, padding=1, generator=shared) for _ in range(3)))


@pytest.mark.parametrize(
    "make",
    (
        tiled,
        lambda: hyperize(nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)), keep_function=True),
        lambda: HyperConv2d(4, 8, 3, generator=partial(CoordinateMLP, hidden=(4, 4))).bfloat16(),
    ),
    ids=("one generator for many layers", "hyperized", "half precision"),
)
def test_any_network_fills_another_of_its_kind(make, tmp_path):
    network, other = make(), make()
    images = torch.randn(1, 4, 9, 9, dtype=next(network.parameters()).dtype)
    HubNetwork(changed(network)).save_pretrained(tmp_path)
    found = HubNetwork.from_pretrained(tmp_path, network=other)
    assert found.network is other
    assert torch.equal(other(images), network(images))
    with pytest.raises(InputError, match=r"config\.json names no network; give one to fill, network="):
        HubNetwork.from_pretrained(tmp_path)
    wrong = nn.Linear(2, 2)
    before = {name: each.clone() for name, each in wrong.state_dict().items()}
    with pytest.raises(InputError, match="holds another network: it lacks weight"):
        HubNetwork.from_pretrained(tmp_path, network=wrong)
    assert all(torch.equal(each, before[name]) for name, each in wrong.state_dict().items())


def test_what_layers_share_is_written_once(tmp_path):
    network = tiled()
    HubNetwork(network).save_pretrained(tmp_path)
    numbers = sum(each.numel() for each in network.parameters())
    assert 4 * numbers < (tmp_path / "model.safetensors").stat().st_size < 4 * numbers + 4000


def test_plain_torch_reads_the_weights(tmp_path):
    from safetensors.torch import load_file

    network = HubNetwork("torchvision/squeezenet1_1", {"num_classes": 3})
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), dict(network.network.state_dict()))


def test_adapters_of_a_shared_network_fill_one_made_anew(tmp_path):
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def told():
        return conditional(plain, 2, generator=LowRankGenerator, keep_function="shared")

    first = told()
    with torch.no_grad():
        first.network[0].generator.generator.dense.weight.normal_()
    inputs, contexts = torch.randn(3, 6), torch.randn(3, 2)
    HubNetwork(first).save_pretrained(tmp_path)
    second = HubNetwork.from_pretrained(tmp_path, network=told())
    assert torch.equal(second(inputs, context=contexts), first(inputs, context=contexts))


def test_the_card_tells_data_figures_command_and_licence(tmp_path):
    figures = [{"metric": "accuracy", "at": "", "value": 0.98765}, {"metric": "PSNR", "at": "noise=3", "value": 30.25}]
    trained = {"data": "mnist", "figures": figures, "command": "python main.py --seed 3", "licence": "mit", "seed": 3}
    network = HubNetwork("mlp/normal", trained=trained)
    network.save_pretrained(tmp_path / "told")
    card = (tmp_path / "told" / "README.md").read_text()
    assert card.startswith("---\n") and "license: mit" in card and "library_name: hyperconv" in card
    for line in ("# mlp/normal", "| accuracy | 0.98765 |", "| PSNR at noise=3 | 30.25 |", "- Data: mnist", "- seed: 3"):
        assert line in card.splitlines()
    assert "- Command: `python main.py --seed 3`" in card
    assert json.loads((tmp_path / "told" / "config.json").read_text())["trained"] == trained
    HubNetwork(nn.Linear(2, 2)).save_pretrained(tmp_path / "given", model_card_kwargs={"data": "two numbers"})
    card = (tmp_path / "given" / "README.md").read_text()
    assert "- Data: two numbers" in card and "- Licence: not told" in card and "network=..." in card


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    HubNetwork("mlp/normal").save_pretrained(folder)
    return folder


def config(**changes):
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    (
        ("model.safetensors", lambda content: content[:-100], "truncated, damaged or no safetensors"),
        ("model.safetensors", lambda content: content[:5], "truncated, damaged or no safetensors"),
        ("model.safetensors", lambda content: b"", "truncated, damaged or no safetensors"),
        ("model.safetensors", lambda content: struct.pack("<Q", 2**60) + content[8:], "truncated, damaged or no"),
        (
            "model.safetensors",
            lambda content: content.replace(b"784]", b"783]", 1),
            "truncated, damaged or no",
        ),
        (
            "model.safetensors",
            lambda content: content.replace(b".weight", b".weighs"),
            "holds another network: it lacks",
        ),
        ("model.safetensors", lambda content: b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        ("model.safetensors", None, r"model\.safetensors cannot be read \(there is no such file\)"),
        ("config.json", None, r"config\.json cannot be read \(there is no such file\)"),
        ("config.json", lambda content: content[:-20], r"config\.json is no JSON"),
        ("config.json", lambda content: b"\xff", "is no UTF-8 text"),
        ("config.json", lambda content: b"[" * 100_000, r"config\.json is no JSON"),
        ("config.json", lambda content: b"[]", "is no config of this package"),
        ("config.json", lambda content: b"{}", "is no config of this package"),
        ("config.json", config(architectures=["X"]), "is no config of this package"),
        ("config.json", config(network=3), r"network cannot be '3'"),
        ("config.json", config(arguments=[1]), "arguments cannot be"),
        ("config.json", config(network="mlp/full"), "holds another network"),
        ("config.json", config(network="mlp/nothing"), "mlp has no arm nothing"),
        ("config.json", config(network="mlp"), "mlp has no arm"),
        ("config.json", config(network="os/system"), "there is no network os/system: it begins with zoo, torchvision,"),
        ("config.json", config(network="zoo/Tensor"), r"hyperconv\.zoo has no network Tensor"),
        ("config.json", config(network="zoo/torch"), r"hyperconv\.zoo has no network torch"),
        ("config.json", config(network="zoo/__name__"), r"hyperconv\.zoo has no network __name__"),
        ("config.json", config(network="zoo/__loader__"), r"hyperconv\.zoo has no network __loader__"),
        ("config.json", config(network="torchvision/os"), "torchvision has no model os"),
        (
            "config.json",
            config(network="torchvision/resnet18", arguments={"weights": "DEFAULT"}),
            "weights would be fetched",
        ),
        (
            "config.json",
            config(network="torchvision/resnet18", arguments={"norm_layer": "os.system"}),
            "can be made of",
        ),
        ("config.json", config(arguments={"kernel": 3}), "mlp has no options, got kernel"),
        ("config.json", config(network="digits/hyper", arguments={"kernel_size": "x"}), "kernel_size"),
        ("config.json", config(network="digits/hyper", arguments={"hidden": [10**9]}), "settings ask for"),
        ("config.json", config(network="zoo/PlainCNN", arguments={"channels": 10**8}), "settings ask for"),
        (
            "config.json",
            config(conditional={"context_dim": 2, "generator": {"generator": "eval"}}),
            "no generator eval",
        ),
        ("config.json", config(conditional={"context_dim": 2}), "holds another network: it lacks network"),
        ("config.json", config(conditional={"hidden": [3]}), r"no mlp/normal can be made of its settings.*context_dim"),
        ("config.json", config(hyperize={"generator": "os.system"}), "no generator os.system|can be made of"),
    ),
)
def test_damaged_and_unfriendly_files_are_refused_in_a_line(name, damage, message, written, tmp_path):
    for each in written.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    content = (tmp_path / name).read_bytes()
    if damage:
        assert damage(content) != content
        (tmp_path / name).write_bytes(damage(content))
    else:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=message) as caught:
        HubNetwork.from_pretrained(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_written_or_found_is_refused(tmp_path):
    with pytest.raises(InputError, match="no torchvision/resnet18 can be made of its settings"):
        HubNetwork("torchvision/resnet18", {"no_such": 1})
    with pytest.raises(InputError, match=r"the network has no layer 0\.conv"):
        HubNetwork("mlp/normal", hyperize={"layers": ["0.conv"]})
    with pytest.raises(InputError, match="a network that is given is taken as it is"):
        HubNetwork(nn.Linear(2, 2), {"bias": False})

    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(InputError, match="_extra_state of the network's state is no tensor"):
        HubNetwork(Counting(2, 2)).save_pretrained(tmp_path / "counting")
    for place in (tmp_path / "nowhere", "no such/place/at all"):
        with pytest.raises(InputError, match="is no folder, and no repository that can be fetched"):
            HubNetwork.from_pretrained(place, local_files_only=True)

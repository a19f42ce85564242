"""Networks as files to share: safetensors, a JSON config that names the network, a card that says what it is.

Files from strangers run no code: a config can only name what this package knows, and its arguments are plain values.
"""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import generators, zoo
from .convert import conditional as make_conditional
from .convert import hyperize as make_hyper
from .errors import InputError
from .extras import needing
from .weights import check_tensors, made_for

with needing("hub", __name__):
    from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin, snapshot_download
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    from .files import read_text, refuse_lfs_pointer, renamed_into_place, write_whole

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_MOST_CONFIG_BYTES = 1 << 20
_GENERATORS = ("ChunkedGenerator", "CoordinateMLP", "DenseGenerator", "LowRankGenerator")
# what constructors raise, and torch's own checks
_OF_BAD_SETTINGS = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
)
_FIELDS = ("network", "arguments", "hyperize", "conditional", "trained")

Values = Mapping[str, Any]


class HubNetwork(nn.Module, PyTorchModelHubMixin, library_name="hyperconv", tags=["hyperconv"]):
    """A network that can be written to a folder, or the hub, and found again by what its config says.

    `save_pretrained`, `push_to_hub` and `from_pretrained` are those of huggingface_hub's ``PyTorchModelHubMixin``. A
    call goes to the network; ``network`` is it.

    Args:
        network: the name of one: ``EXPERIMENT/ARM`` (of ``main.py --list``), ``zoo/NAME`` (a class or function of
            `hyperconv.zoo`) or ``torchvision/NAME`` (of ``torchvision.models.list_models()``). Or any network, for
            which `from_pretrained` then has to be given another of the same kind.
        arguments: plain values: the experiment's options that are not the default, or what class or function take. A
            generator is ``{"generator": NAME, ...}``, with what else it takes.
        hyperize: for `hyperconv.hyperize`: ``layers`` (names; by default all that it selects), ``generator`` and
            ``keep_function``.
        conditional: for `hyperconv.conditional`: ``context_dim``, and if wanted ``hidden`` and what ``hyperize`` takes.
        trained: plain values that config and card tell: ``data``, ``figures`` (rows of ``metric``, ``at`` and
            ``value``), ``command``, ``licence``, and what else is to be known.

    Raises:
        InputError: no network of that name, or none that can be made so.

    Attributes:
        network: the network.
        config: what ``config.json`` holds.

    >>> layers = {"layers": ["fc"], "generator": {"generator": "LowRankGenerator", "rank": 2}}
    >>> told = HubNetwork("torchvision/resnet18", {"num_classes": 10}, conditional={"context_dim": 2, **layers})
    >>> type(told.network).__name__
    'Conditional'
    """

    def __init__(
        self,
        network: str | nn.Module,
        arguments: Values | None = None,
        hyperize: Values | None = None,
        conditional: Values | None = None,
        trained: Values | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "network": None if isinstance(network, nn.Module) else network,
            **{"arguments": arguments, "hyperize": hyperize, "conditional": conditional, "trained": trained},
        }
        try:
            json.dumps(self.config)
        except (TypeError, ValueError) as error:
            raise InputError(f"a config holds plain values only: {error}") from error
        if isinstance(network, nn.Module):
            if arguments or hyperize or conditional:
                raise InputError(
                    "a network that is given is taken as it is; arguments and such are of one that is named"
                )
            self.network = network
        else:
            self.network = _named_network(self.config)()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = self.network.state_dict()
        if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
            raise InputError(f"{other[0]} of the network's state is no tensor, and files to share hold tensors only")
        firsts = _first_names(self.network)
        weights = {name: state[name].detach().cpu().clone().contiguous() for name in dict.fromkeys(firsts.values())}
        with renamed_into_place(save_directory / WEIGHTS) as beside:
            # not save_file, which puts a file of its own into place, for its owner's eyes only
            beside.write_bytes(save(weights, metadata={"format": "pt"}))
        write_whole(save_directory / CONFIG, json.dumps(self.config, indent=2, ensure_ascii=False) + "\n")

    def generate_model_card(self, **told: Any) -> ModelCard:
        """The card, from what was ``trained`` and what is told here in its place (``model_card_kwargs=``)."""
        told = {**(self.config["trained"] or {}), **told}
        data = ModelCardData(license=told.get("licence"), library_name="hyperconv", tags=["hyperconv"])
        numbers = sum(parameter.numel() for parameter in self.network.parameters())
        name = self.config["network"] or type(self.network).__name__
        figures = [
            f"| {row['metric']}{' at ' * bool(row.get('at'))}{row.get('at') or ''} | {row['value']:.6g} |"
            for row in told.get("figures") or ()
        ]
        given = "" if self.config["network"] else ", network=..."
        rest = {key: value for key, value in told.items() if key not in ("figures", "data", "command", "licence")}
        lines = [
            *("---", data.to_yaml(), "---", "", f"# {name}", ""),
            f"A network of hyperconv with {numbers:,} parameters.",
            *("", "| figure | value |", "| --- | --- |", *figures) * bool(figures),
            "",
            *(f"- {what}: {told.get(key) or 'not told'}" for what, key in (("Data", "data"), ("Licence", "licence"))),
            f"- Command: `{told['command']}`" if told.get("command") else "- Command: not told",
            *(f"- {key}: {value}" for key, value in rest.items() if value not in (None, "", {})),
            "",
            *("```python", "from hyperconv.hub import HubNetwork", ""),
            f'network = HubNetwork.from_pretrained("..."{given})',
            "```",
        ]
        return ModelCard("\n".join(lines) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        network: nn.Module | None = None,
        map_location: Any = "cpu",
        **download: Any,
    ) -> "HubNetwork":
        """The network of a folder, or of a repository of the hub, in evaluation mode.

        Args:
            network: to be filled, where the config names none, or in place of the one that it names.
            map_location: the device that the network is moved to.
            download: ``revision``, ``token``, ``cache_dir``, ``force_download`` and ``local_files_only``, for the hub.

        Raises:
            InputError: nothing there, files that are damaged or not of one network, or a name that is not known here.
        """
        folder = _folder(pretrained_model_name_or_path, download)
        config, weights = read_config(folder / CONFIG), _read_weights(folder / WEIGHTS)
        if network is None and config["network"] is None:
            raise InputError(f"{folder / CONFIG} names no network; give one to fill, network=...")
        named = None
        try:
            if network is None:
                network = made_for(weights, _named_network(config), _by_all_names)
            else:
                named = _by_all_names(weights, network)
                check_tensors(named, network.state_dict())
                network.load_state_dict(named)
        except InputError as error:
            raise InputError(f"{folder} holds another network: {' '.join(str(error).split())[:300]}") from error
        made = cls(network.to(map_location))
        if named is not None:
            config |= dict.fromkeys(("network", "arguments", "hyperize", "conditional"))
        made.config = config
        return made.eval()


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.json`` says, an entry for each of `HubNetwork`'s arguments.

    Raises:
        InputError: it is missing, or no such file.
    """
    text = read_text(path, _MOST_CONFIG_BYTES)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict) or not {"network"} <= config.keys() <= set(_FIELDS):
        raise InputError(f"{path} is no config of this package, whose entries are {', '.join(_FIELDS)}")
    for name in _FIELDS:
        kind: type = str if name == "network" else dict
        if not isinstance(config.setdefault(name, None), kind | None):
            raise InputError(f"{path}: {name} cannot be {str(config[name])[:100]!r}")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} cannot be read (there is no such file)")
    refuse_lfs_pointer(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        said = " ".join(str(error).split())[:100]
        raise InputError(f"{path} is truncated, damaged or no safetensors ({said})") from error


def _folder(place: str | Path, download: dict[str, Any]) -> Path:
    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(str(place), allow_patterns=[CONFIG, WEIGHTS, CARD], **download))
    # of the hub, of the network, of names that are none
    except (OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{place} is no folder, and no repository that can be fetched ({said})") from error


def _first_names(network: nn.Module) -> dict[str, str]:
    """For each name of the network's state, the first one of the same tensor."""
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in network.state_dict(keep_vars=True).items()}


def _by_all_names(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    firsts = _first_names(network)
    others = {name: weights[first] for name, first in firsts.items() if name not in weights and first in weights}
    return {**weights, **others}


def _named_network(config: Values) -> Callable[[], nn.Module]:
    """What makes the network that a config names, untrained.

    Raises:
        InputError: itself or when called: there is none of that name, or none can be made so.
    """
    kind, _, name = config["network"].partition("/")
    arguments = config["arguments"] or {}
    finders = {"zoo": _of_zoo, "torchvision": _of_torchvision}
    plain = finders[kind](name, arguments) if kind in finders else _of_experiment(kind, name, arguments)

    def made() -> nn.Module:
        try:
            network = plain()
            if config["hyperize"] is not None:
                network = make_hyper(network, **_options(config["hyperize"], network))
            if config["conditional"] is not None:
                network = make_conditional(network, **_options(config["conditional"], network))
        except (InputError, NotImplementedError):  # the latter is `outline`'s to answer
            raise
        except _OF_BAD_SETTINGS as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"no {config['network']} can be made of its settings: {reason}") from error
        return network

    return made


def _of_experiment(name: str, arm: str, options: Values) -> Callable[[], nn.Module]:
    with needing("experiments", f"the network {name}/{arm}"):
        from .experiments.declared import experiments
        from .experiments.trained import options_of

    experiment = experiments().get(name)
    if experiment is None:
        raise InputError(
            f"there is no network {name}/{arm}: it begins with zoo, torchvision, {', '.join(experiments())}"
        )
    adapted = experiment.with_options(options_of(experiment, options))
    if arm not in adapted.arms:
        raise InputError(f"{name} has no arm {arm}; it has {', '.join(adapted.arms)}")
    return adapted.arms[arm].network


def _of_torchvision(name: str, arguments: Values) -> Callable[[], nn.Module]:
    with needing("experiments", f"the network torchvision/{name}"):
        from torchvision import models

    if name not in models.list_models():
        raise InputError(f"torchvision has no model {name}")
    if fetched := [each for each in arguments if each.startswith("weights")]:
        raise InputError(f"{fetched[0]} would be fetched; the weights are those of the file")
    builder = models.get_model_builder(name)
    weights = [each for each in inspect.signature(builder).parameters if each.startswith("weights")]
    return partial(builder, **dict.fromkeys(weights), **_decoded(arguments))


def _of_zoo(name: str, arguments: Values) -> Callable[[], nn.Module]:
    for module in pkgutil.iter_modules(zoo.__path__):
        path = f"{zoo.__name__}.{module.name}"
        try:
            found = getattr(importlib.import_module(path), name, None)
        except ImportError:
            continue
        if (
            found is not None
            and getattr(found, "__module__", None) == path
            and not name.startswith("_")
            and _makes_networks(found)
        ):
            return partial(found, **_decoded(arguments))
    raise InputError(f"{zoo.__name__} has no network {name}, or it needs more packages")


def _makes_networks(maker: Any) -> bool:
    made = inspect.signature(maker).return_annotation if inspect.isfunction(maker) else maker
    return inspect.isclass(made) and issubclass(made, nn.Module)


def _options(given: Values, network: nn.Module) -> dict[str, Any]:
    options = {str(name): _decoded(value) for name, value in given.items()}
    if isinstance(options.get("generator"), str):
        options["generator"] = _decoded({"generator": options["generator"]})
    if (layers := options.pop("layers", None)) is not None:
        if unknown := set(layers) - {name for name, _ in network.named_modules()}:
            raise InputError(f"the network has no layer {min(unknown)}")
        options["select"] = lambda name, layer: name in layers
    return options


def _decoded(value: Any) -> Any:
    """Plain values, with tuples for lists and generators for what is said of them."""
    if isinstance(value, Mapping):
        values = {str(name): _decoded(each) for name, each in value.items()}
        if not isinstance(kind := values.get("generator"), str):
            return values
        if kind not in _GENERATORS:
            raise InputError(f"there is no generator {kind}; there are {', '.join(_GENERATORS)}")
        del values["generator"]
        return partial(getattr(generators, kind), **values)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_decoded, value))
    return value

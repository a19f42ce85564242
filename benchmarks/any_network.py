"""Networks of several libraries made conditional, trained a little and baked, a row each; see --help.

python benchmarks/any_network.py
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import command
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hyperconv import LowRankGenerator, bake, conditional
from hyperconv.convert import all_layers, norm_layers
from hyperconv.errors import InputError
from hyperconv.files import renamed_into_place
from hyperconv.layers import HyperLayer

Select = Callable[[str, nn.Module], bool]
CONTEXT, STEPS = 2, 10
# of the largest output, that other contexts change at least
_HEARD = 1e-2
_HEADER = "| network | input | generated | start | loss | baked |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
_MARKS = ("<!-- networks -->\n", "<!-- end -->")


@dataclass(frozen=True)
class AnyNetwork:
    """Make networks conditional, train them for ten steps with a context a sample, bake them, and write a table.

    All start at random weights. A library that is not installed ends in a row that says so.

    Args:
        only: just the networks with this in their name.
        page: put the rows into the table between the marks of this Markdown file, and not just print them.
    """

    only: str = ""
    page: str | None = None


class Subject(NamedTuple):
    """A network to try.

    Attributes:
        make: returns it.
        shapes: of the inputs of one call, the batch first.
        select: which layers.
    """

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    select: Select = all_layers


class Outcome(NamedTuple):
    """What happened to a network.

    Attributes:
        generated: layers with generated weights, and layers that have weights of their kind.
        start: largest difference to the network's outputs before training, over the largest output.
        losses: at the first and the last step.
        baked: largest difference of outputs with a context a sample to those of a network baked for each context, over
            the largest output, after training.
    """

    generated: tuple[int, int]
    start: float
    losses: tuple[float, float]
    baked: float

    def __str__(self) -> str:
        first, last = self.losses
        made, there = self.generated
        return f"{made} of {there} | {self.start:.0e} | {first:.4g} to {last:.4g} | {self.baked:.0e}"


def _norms_too(name: str, layer: nn.Module) -> bool:
    return all_layers(name, layer) or norm_layers(name, layer)


def _but(part: str) -> Select:
    return lambda name, layer: part not in name and all_layers(name, layer)


def _torchvision(path: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        module: Any = torchvision.models
        for part in path.split("."):
            module = getattr(module, part)
        return module(**settings)

    return make


def _monai(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from monai.networks import nets

        return getattr(nets, name)(**settings)

    return make


def _timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **settings)

    return make


def _voxelmorph() -> nn.Module:
    from voxelmorph.nn.models import VxmPairwise

    return VxmPairwise(2, 1, 1)


def _encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)


_FEW: dict[str, Any] = {"weights": None, "num_classes": 10}
_TINY_VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "num_classes": 10,
}
_MAPS: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 3}
_UNET: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": (8, 16, 32),
    "strides": (2, 2),
    "num_res_units": 1,
}
_DYNUNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "kernel_size": (3, 3, 3),
    "strides": (1, 2, 2),
    "upsample_kernel_size": (2, 2),
    "filters": (8, 16, 32),
}
_UNETR: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 2,
    "img_size": 32,
    "feature_size": 8,
    "hidden_size": 48,
    "mlp_dim": 96,
    "num_heads": 4,
    "spatial_dims": 2,
}
_SMALL, _LARGE, _PAIR = ((4, 3, 32, 32),), ((4, 3, 64, 64),), ((4, 1, 32, 32), (4, 1, 32, 32))

SUBJECTS: dict[str, Subject] = {
    "torch.nn TransformerEncoder": Subject(_encoder, ((4, 7, 32),)),
    "torchvision resnet18": Subject(_torchvision("resnet18", **_FEW), _LARGE),
    "torchvision resnet18, norms too": Subject(_torchvision("resnet18", **_FEW), _LARGE, _norms_too),
    "torchvision squeezenet1_1": Subject(_torchvision("squeezenet1_1", **_FEW), _LARGE),
    "torchvision shufflenet_v2_x0_5": Subject(_torchvision("shufflenet_v2_x0_5", **_FEW), _LARGE),
    "torchvision mobilenet_v3_small": Subject(_torchvision("mobilenet_v3_small", **_FEW), _LARGE),
    "torchvision mnasnet0_5": Subject(_torchvision("mnasnet0_5", **_FEW), _LARGE),
    "torchvision efficientnet_b0": Subject(_torchvision("efficientnet_b0", **_FEW), _LARGE),
    "torchvision regnet_y_400mf": Subject(_torchvision("regnet_y_400mf", **_FEW), _LARGE),
    "torchvision densenet121": Subject(_torchvision("densenet121", **_FEW), _SMALL),
    "torchvision googlenet": Subject(_torchvision("googlenet", aux_logits=False, init_weights=False, **_FEW), _LARGE),
    "torchvision convnext_tiny": Subject(_torchvision("convnext_tiny", **_FEW), _SMALL),
    "torchvision VisionTransformer": Subject(_torchvision("VisionTransformer", **_TINY_VIT), _SMALL),
    "torchvision VisionTransformer, norms too": Subject(
        _torchvision("VisionTransformer", **_TINY_VIT), _SMALL, lambda name, layer: not isinstance(layer, nn.Conv2d)
    ),
    "torchvision swin_t": Subject(_torchvision("swin_t", **_FEW), _LARGE),
    "torchvision swin_t, but its attention": Subject(_torchvision("swin_t", **_FEW), _LARGE, _but(".attn.")),
    "torchvision lraspp_mobilenet_v3_large": Subject(
        _torchvision("segmentation.lraspp_mobilenet_v3_large", **_MAPS), _LARGE
    ),
    "torchvision deeplabv3_mobilenet_v3_large": Subject(
        _torchvision("segmentation.deeplabv3_mobilenet_v3_large", **_MAPS), _LARGE
    ),
    "torchvision resnet18 with FPN": Subject(
        _torchvision(
            "detection.backbone_utils.resnet_fpn_backbone", backbone_name="resnet18", weights=None, trainable_layers=5
        ),
        _LARGE,
    ),
    "torchvision r3d_18": Subject(_torchvision("video.r3d_18", **_FEW), ((2, 3, 4, 32, 32),)),
    "monai UNet": Subject(_monai("UNet", **_UNET), ((4, 1, 32, 32),)),
    "monai UNet, norms too": Subject(_monai("UNet", norm="batch", **_UNET), ((4, 1, 32, 32),), _norms_too),
    "monai DynUNet": Subject(_monai("DynUNet", **_DYNUNET), ((2, 1, 16, 16, 16),)),
    "monai SegResNet": Subject(_monai("SegResNet", spatial_dims=2, init_filters=8), ((4, 1, 32, 32),)),
    "monai UNETR": Subject(_monai("UNETR", **_UNETR), ((4, 1, 32, 32),)),
    "timm resnet10t": Subject(_timm("resnet10t"), _LARGE),
    "timm convnext_atto": Subject(_timm("convnext_atto"), _LARGE),
    "timm vit_tiny_patch16_224": Subject(_timm("vit_tiny_patch16_224", img_size=32), _SMALL),
    "voxelmorph VxmPairwise": Subject(_voxelmorph, _PAIR),
}


def round_trip(subject: Subject, steps: int = STEPS) -> Outcome:
    """Into a conditional network and back.

    Raises:
        ValueError: what refused it.
    """
    torch.manual_seed(0)
    plain = subject.make()
    with torch.no_grad():
        # some start with zeros in their last layer
        for parameter in plain.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    inputs = tuple(torch.randn(shape) for shape in subject.shapes)
    contexts = torch.randn(len(inputs[0]), CONTEXT)
    told = conditional(
        plain, CONTEXT, select=subject.select, generator=partial(LowRankGenerator, rank=1), keep_function=True
    )
    start = _difference(_outputs(told, inputs, context=contexts), _outputs(plain, inputs))
    losses = _train(told, inputs, contexts, steps)
    with torch.no_grad():
        # ten small steps hardly tell samples apart
        for parameter in told.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    outputs = _outputs(told, inputs, context=contexts)
    elsewhere = _outputs(told, inputs, context=contexts.roll(1, 0))
    if _difference(elsewhere, outputs) < _HEARD:
        raise AssertionError("contexts make no difference, so that nothing is shown")
    baked = 0.0
    for index, context in enumerate(contexts):
        own = _outputs(bake(told, context), tuple(input[index : index + 1] for input in inputs))
        baked = max(baked, _difference([output[index : index + 1] for output in outputs], own))
    kinds = {layer for name, layer in plain.named_modules() if all_layers(name, layer) or norm_layers(name, layer)}
    generated = sum(isinstance(layer, HyperLayer) for layer in told.modules())
    return Outcome((generated, len(kinds)), start, losses, baked)


def _train(told: nn.Module, inputs: tuple[Tensor, ...], contexts: Tensor, steps: int) -> tuple[float, float]:
    """Losses of the first and the last step, on outputs that are to be the larger, the larger the context."""
    told.train()
    optimizer = torch.optim.Adam([each for each in told.parameters() if each.requires_grad], 1e-5)
    losses, target = [], None
    for _ in range(steps):
        # the same units are dropped in every step, so that losses can be compared
        torch.manual_seed(1)
        output = _floats(told(*inputs, context=contexts))[0]
        if target is None:
            shifts = contexts[:, 0].reshape(-1, *[1] * (output.dim() - 1))
            target = output.detach() + output.detach().std() * shifts
        loss = nn.functional.mse_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@torch.no_grad()
def _outputs(network: nn.Module, inputs: tuple[Tensor, ...], **named: Tensor) -> list[Tensor]:
    return _floats(network.eval()(*inputs, **named))


def _floats(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference over the largest number."""
    return max(
        ((our - their).abs().max() / their.abs().max().clamp(min=1e-30)).item()
        for our, their in zip(ours, theirs, strict=True)
    )


def row(name: str, subject: Subject) -> str:
    sizes = ", ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys(subject.shapes))
    try:
        outcome = str(round_trip(subject))
    except ImportError as error:
        outcome = f"skipped: {error} | | |"
    except ValueError as error:
        outcome = f"refused: {error} | | |"
    return f"| {name} | {sizes} | {outcome} |"


def main(settings: AnyNetwork) -> None:
    chosen = {name: subject for name, subject in SUBJECTS.items() if settings.only in name}
    if not chosen:
        raise InputError(f"no network has {settings.only!r} in its name")
    print(_HEADER, end="")
    for name, subject in chosen.items():
        print(made := row(name, subject), flush=True)
        if settings.page:
            _write(Path(settings.page), name, made)


def _write(page: Path, name: str, made: str) -> None:
    """Put a row into the page's table, in its place."""
    begin, end = _MARKS
    parts = re.split(f"({begin})(.*?)({end})", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.DOTALL)
    if len(parts) == 1:
        raise InputError(f"{page} has no place for the table, {begin.strip()} to {end}")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in parts[2].splitlines()} | {name: made}
    parts[2] = _HEADER + "".join(f"{rows[each]}\n" for each in SUBJECTS if each in rows)
    with renamed_into_place(page) as beside:
        beside.write_text("".join(parts), encoding="utf-8")


if __name__ == "__main__":
    command(main, AnyNetwork)

"""Images blurred by a known kernel and halved in size: digits, and natural images.

The kernels are anisotropic Gaussians. Training draws from many of them; validation and test have a few each, from which
all training kernels differ.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ..coordinates import kernel_grid
from ..errors import InputError
from ..functional import convolution_per_sample
from .batches import Splits
from .digits import LOCAL_FOLDER, load_digits
from .images import as_float

SCALE = 2
COEFFICIENTS = 8
HELD_OUT = 10
# even, so that a pixel of the small image lies in the middle of the four that it stands for
_KERNEL_SIZE = 16
_WIDTHS = 0.6, 2.5
_DRAWN = 2_000
_DIFFERENCE = 0.2
_SEED = 1
_DIGITS = {"train": 5_000, "validation": 500, "test": 2_000}

PATCH = 48
_PATCHES_AN_IMAGE = 400
_VALIDATION_SIDE = 192
_OF_SCIKIT_IMAGE = (
    "astronaut",
    "brick",
    "camera",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "rocket",
    "stereo_motorcycle",
)
_SUFFIXES = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"}


Images = Tensor | list[Tensor]


class Kernels(NamedTuple):
    """Blur kernels ``(N, 16, 16)`` by split."""

    train: Tensor
    validation: Tensor
    test: Tensor


def gaussian_kernels(widths: Tensor, angles: Tensor) -> Tensor:
    """Anisotropic Gaussians of sum 1, centred, ``(N, 16, 16)``.

    Args:
        widths: ``(N, 2)``, standard deviations in pixels along two orthogonal axes.
        angles: ``(N,)`` in radians, of the first axis, counter-clockwise from the right.

    >>> kernel = gaussian_kernels(torch.tensor([[2.0, 1.0]]), torch.zeros(1))[0]
    >>> column = torch.arange(16) - 7.5
    >>> [round(float((kernel.sum(axis) * column**2).sum()), 2) for axis in (0, 1)]
    [4.0, 1.0]
    """
    down, right = kernel_grid((_KERNEL_SIZE, _KERNEL_SIZE)).T
    cosine, sine = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    along, across = right * cosine - down * sine, right * sine + down * cosine
    first, second = widths.T.unsqueeze(-1)
    weights = torch.exp(-0.5 * ((along / first) ** 2 + (across / second) ** 2))
    return (weights / weights.sum(dim=1, keepdim=True)).unflatten(1, (_KERNEL_SIZE, _KERNEL_SIZE))


@cache
def blur_kernels() -> Kernels:
    """Kernels with both widths evenly drawn from 0.6 ... 2.5 pixels, and any angle.

    Of 2,000, ten are for validation and ten for test, all apart. Training has the others that are apart from these: by
    a fifth of their norm or more, the larger of the two.
    """
    numbers = torch.rand(_DRAWN, 3, generator=torch.Generator().manual_seed(_SEED))
    narrowest, widest = _WIDTHS
    kernels = gaussian_kernels(narrowest + (widest - narrowest) * numbers[:, :2], math.pi * numbers[:, 2])
    flat = kernels.flatten(1)
    norms = flat.norm(dim=1)
    differ = torch.cdist(flat, flat) > _DIFFERENCE * torch.maximum(norms, norms.unsqueeze(1))
    held_out: list[int] = []
    for number in range(_DRAWN):
        if len(held_out) < 2 * HELD_OUT and differ[number, held_out].all():
            held_out.append(number)
    return Kernels(kernels[differ[:, held_out].all(dim=1)], *kernels[held_out].split(HELD_OUT))


@cache
def middle_kernel() -> Tensor:
    """A round Gaussian of the middle width, ``(16, 16)``."""
    return gaussian_kernels(torch.full((1, 2), sum(_WIDTHS) / 2), torch.zeros(1))[0]


def coefficients(kernels: Tensor) -> Tensor:
    """What networks are told of kernels ``(B, 16, 16)``: their first principal components among the training kernels.

    Returns:
        ``(B, 8)``, of unit variance over the training kernels.
    """
    mean, components = (part.to(kernels) for part in _components())
    return (kernels.flatten(1) - mean) @ components


@cache
def _components() -> tuple[Tensor, Tensor]:
    """The mean ``(256,)``, and what to multiply differences from it by, ``(256, 8)``."""
    from sklearn.decomposition import PCA

    found = PCA(COEFFICIENTS).fit(blur_kernels().train.flatten(1).numpy())
    scaled = found.components_.T / found.explained_variance_**0.5
    return torch.from_numpy(found.mean_).float(), torch.from_numpy(scaled).float()


def blurred_and_halved(images: Tensor, kernels: Tensor) -> Tensor:
    """What a camera makes of images, in steps of 1/255; beyond the edges it sees the edges' values.

    Args:
        images: ``(B, 1, H, W)`` in 0 ... 1, sides even.
        kernels: ``(B, 16, 16)``.

    Returns:
        ``(B, 1, H / 2, W / 2)``.

    >>> blurred_and_halved(torch.ones(2, 1, 28, 20), blur_kernels().test[:2]).shape
    torch.Size([2, 1, 14, 10])
    """
    padded = F.pad(images, [(_KERNEL_SIZE - SCALE) // 2] * 4, mode="replicate")
    blurred = convolution_per_sample(padded, kernels[:, None, None], stride=SCALE)
    return (255 * blurred).round() / 255


class Blurred(NamedTuple):
    """A batch of images and what is known of them.

    Attributes:
        truths: ``(B, 1, H, W)``, or a list of ``(1, H, W)`` of several sizes; uint8.
        seen: of half their size, float, likewise.
        told: `coefficients` of the kernels, ``(B, 8)``.
        kernels: ``(B, 16, 16)``.
        sets: the name of what each image belongs to, or nothing.
    """

    truths: Images
    seen: Images
    told: Tensor
    kernels: Tensor
    sets: Sequence[str] = ()


def blurred(truths: Images, kernels: Tensor, sets: Sequence[str] = ()) -> Blurred:
    """Images as they are seen through kernels ``(B, 16, 16)``, one each."""
    if isinstance(truths, Tensor):
        seen: Images = blurred_and_halved(as_float(truths), kernels)
    else:
        pairs = zip(truths, kernels, strict=True)
        seen = [blurred_and_halved(as_float(truth)[None], kernel[None])[0] for truth, kernel in pairs]
    return Blurred(truths, seen, coefficients(kernels), kernels, sets)


class ThroughKernels(Dataset):
    """Images seen through kernels, indexed by a tensor of indices.

    Args:
        images: ``(N, 1, H, W)``, or a list of ``(1, H, W)`` of any even sides; uint8.
        kernels: ``(K, 16, 16)``.
        pairs: which image is seen through which kernel, ``(P, 2)``, int64.
        sets: the name of what each image belongs to, or nothing.
    """

    def __init__(self, images: Images, kernels: Tensor, pairs: Tensor, sets: Sequence[str] = ()) -> None:
        self.images = images
        self.kernels = kernels
        self.pairs = pairs
        self.sets = sets

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, indices: Tensor) -> Blurred:
        images, kernels = self.pairs[indices].T
        numbers = images.tolist()
        truths = self.images[images] if isinstance(self.images, Tensor) else [self.images[each] for each in numbers]
        return blurred(truths, self.kernels[kernels], [self.sets[each] for each in numbers] if self.sets else ())


def digits_to_blur(source: str = "auto") -> Splits:
    """At most 5,000 / 500 / 2,000 digits of the splits of `load_digits`.

    Returns:
        Training images ``(B, 1, 28, 28)``, uint8; and `ThroughKernels`, each digit through one kernel of its split.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    parts: dict[str, Any] = {split: getattr(digits, split) for split in _DIGITS}
    images = {split: part[: _DIGITS[split]][0] for split, part in parts.items()}
    _, of_validation, of_test = blur_kernels()

    def through(split: str, kernels: Tensor) -> ThroughKernels:
        numbers = torch.arange(len(images[split]))
        return ThroughKernels(images[split], kernels, torch.stack([numbers, numbers % HELD_OUT], dim=1))

    sizes = ", ".join(f"{len(images[split])} {split}" for split in images)
    return Splits(
        digits.name,
        TensorDataset(images["train"]),
        through("validation", of_validation),
        through("test", of_test),
        note=f"{digits.note}; {sizes} digits, {HELD_OUT} kernels each for validation and test",
    )


def natural_images(source: str = "auto") -> Splits:
    """Patches of natural images that scikit-image ships, to train on; a folder of images, such as Set5, as test.

    Validation has the middle of scikit-image's cat and of the two photographs that scikit-learn ships. Of colours,
    there is the luma of ITU-R BT.601 only.

    Args:
        source: a folder of images (png, bmp, jpg, tif) or of folders of images, each of them a set; ``auto`` for
            ``data/superres``.

    Returns:
        Training patches ``(B, 1, 48, 48)``, uint8; and `ThroughKernels`, each image, cropped to even sides, through
        every kernel of its split.

    Raises:
        InputError: a folder that is missing or without images; an image that is damaged or smaller than a patch.
    """
    folder = LOCAL_FOLDER / "superres" if source == "auto" else Path(source)
    sets, tested = _read_sets(folder)
    draws = torch.Generator().manual_seed(_SEED)
    patches = [patch for image in _training_images() for patch in _patches(image, draws)]
    validation = [_middle(image) for image in _validation_images()]
    _, of_validation, of_test = blur_kernels()

    def through_all(images: list[Tensor], kernels: Tensor, sets: Sequence[str] = ()) -> ThroughKernels:
        return ThroughKernels(
            images, kernels, torch.cartesian_prod(torch.arange(len(images)), torch.arange(HELD_OUT)), sets
        )

    return Splits(
        "-".join(dict.fromkeys(each.lower() for each in sets)),
        TensorDataset(torch.stack(patches)),
        through_all(validation, of_validation),
        through_all(tested, of_test, sets),
        note=f"{len(patches)} patches of {len(_OF_SCIKIT_IMAGE)} images of scikit-image to train on, "
        f"{len(validation)} images for validation, {len(tested)} of {folder} as test, the last two with {HELD_OUT} "
        "kernels each",
    )


def _training_images() -> list[Tensor]:
    import skimage.data

    images = [getattr(skimage.data, name)() for name in _OF_SCIKIT_IMAGE]
    # of a stereo pair, the left one
    return [_luma(image[0] if isinstance(image, tuple) else image) for image in images]


def _validation_images() -> list[Tensor]:
    import skimage.data
    from sklearn.datasets import load_sample_image

    return [_luma(each) for each in (skimage.data.cat(), *map(load_sample_image, ("china.jpg", "flower.jpg")))]


def _read_sets(folder: Path) -> tuple[list[str], list[Tensor]]:
    """The name of each image's set, and the images."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one of images, such as those of Set5, with --data")
    paths = sorted(path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise InputError(f"{folder} and the folders in it hold no images ({', '.join(sorted(_SUFFIXES))})")
    return [path.parent.resolve().name for path in paths], [_read(path) for path in paths]


def _read(path: Path) -> Tensor:
    """The luma of an image, ``(1, H, W)``, uint8, its sides cropped to even ones."""
    from skimage.io import imread
    from skimage.util import img_as_ubyte

    try:
        image = _luma(img_as_ubyte(imread(path)))
    except (OSError, ValueError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as an image: {reason[:200]}") from error
    height, width = image.shape[1:]
    if min(height, width) < PATCH:
        raise InputError(f"{path} is {width}x{height} pixels, smaller than a patch of {PATCH}x{PATCH}; leave it out")
    return image[:, : height - height % SCALE, : width - width % SCALE]


def _luma(image: Any) -> Tensor:
    """``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8, to ``(1, H, W)``, uint8.

    Raises:
        ValueError: another shape.
    """
    from skimage.color import rgb2ycbcr

    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = rgb2ycbcr(image[..., :3])[..., 0].round().astype("uint8")
    if image.ndim != 2:
        raise ValueError(f"an array of shape {image.shape} is no image of one, three or four channels")
    return torch.tensor(image).unsqueeze(0)


def _patches(image: Tensor, draws: torch.Generator) -> Iterable[Tensor]:
    places = [torch.randint(side - PATCH + 1, (_PATCHES_AN_IMAGE,), generator=draws) for side in image.shape[1:]]
    for row, column in torch.stack(places, dim=1).tolist():
        yield image[:, row : row + PATCH, column : column + PATCH]


def _middle(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    top, left = (height - _VALIDATION_SIDE) // 2, (width - _VALIDATION_SIDE) // 2
    return image[:, top : top + _VALIDATION_SIDE, left : left + _VALIDATION_SIDE]

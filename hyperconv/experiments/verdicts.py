"""What the paper claims of generated kernels, beside the comparisons here that bear on it.

T. Ma, A. V. Dalca, M. R. Sabuncu, WACV 2022, https://arxiv.org/abs/2105.10559
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .declared import experiments
from .results import FAILED, Result, TrainingKey
from .robustness import MEDIAN
from .statistics import Interval, difference_interval, paired_interval

Outcome = Literal["for", "against", "open"]


class Comparison(NamedTuple):
    """Two arms of an experiment, measured alike.

    Attributes:
        what: in words, what is compared.
        generated, stored: the arms.
        margin: by how much worse the metric may be and still count as as good; 0 where the claim is that it is better.
    """

    what: str
    experiment: str
    data: str
    metric: str
    generated: str
    stored: str
    settings: str = ""
    at: str = ""
    margin: float = 0.0


class Claim(NamedTuple):
    """What the paper says, and the comparisons that bear on it."""

    words: str
    comparisons: Sequence[Comparison]


class Measured(NamedTuple):
    """A comparison that results are there for.

    Attributes:
        difference: of the metric, generated less stored.
        higher_is_better: of the metric.
        parameters: of both.
        trainings: that did not fail, of both; ``failed``: of both.
    """

    comparison: Comparison
    difference: Interval
    higher_is_better: bool
    parameters: tuple[int, int]
    trainings: tuple[int, int]
    failed: int

    @property
    def outcome(self) -> Outcome:
        """For the claim where all of the interval is better than the margin, else against it where all is worse."""
        mean, half_width = self.difference
        gain = mean if self.higher_is_better else -mean
        if gain - half_width > -self.comparison.margin:
            return "for"
        return "against" if gain + half_width < 0 else "open"


def measured(comparison: Comparison, rows: Sequence[Result]) -> Measured | None:
    """From test figures, of folds in pairs; None where an arm has fewer than two, or the two share fewer folds."""
    of_both = [
        row
        for row in rows
        if (row.experiment, row.data, row.settings) == (comparison.experiment, comparison.data, comparison.settings)
        and row.arm in (comparison.generated, comparison.stored)
        and row.noise_seed is None
    ]
    failed = {row.training for row in of_both if row.metric == FAILED}
    figures = [
        row
        for row in of_both
        if (row.split, row.metric, row.at) == ("test", comparison.metric, comparison.at) and row.training not in failed
    ]

    def of(arm: str) -> dict[TrainingKey, Result]:
        return {row.training._replace(arm=""): row for row in figures if row.arm == arm}

    arms = of(comparison.generated), of(comparison.stored)
    a, b = ({key: row.value for key, row in each.items()} for each in arms)
    if all(key.fold is not None for key in a.keys() | b.keys()):
        shared = a.keys() & b.keys()
        a, b = ({key: each[key] for key in shared} for each in (a, b))
        interval = paired_interval(a, b) if len(shared) > 1 else None
    else:
        values = list(a.values()), list(b.values())
        interval = difference_interval(*values) if min(map(len, values)) > 1 else None
    if interval is None:
        return None
    metrics = {metric.name: metric for metric in experiments()[comparison.experiment].objective.metrics}
    return Measured(
        comparison,
        interval,
        metrics[comparison.metric].is_better(1.0, 0.0),
        (_parameters(arms[0]), _parameters(arms[1])),
        (len(a), len(b)),
        len(failed),
    )


def _parameters(trainings: Mapping[TrainingKey, Result]) -> int:
    return next(iter(trainings.values())).parameters


def verdict(found: Sequence[Measured]) -> str:
    """In words, of the comparisons of a claim."""
    outcomes = [each.outcome for each in found]
    if not outcomes:
        return "Not measured"
    if set(outcomes) == {"for"}:
        return "Holds"
    if outcomes.count("for") > outcomes.count("against"):
        return "Holds in part"
    return "Does not hold" if "against" in outcomes else "Not seen"


def claim_table(rows: Sequence[Result], claim: Claim) -> str:
    """The claim, its verdict, and a line for each comparison that was measured."""
    found = [each for comparison in claim.comparisons if (each := measured(comparison, rows))]
    outcomes = [each.outcome for each in found]
    counts: dict[Outcome, int] = {outcome: outcomes.count(outcome) for outcome in ("for", "against", "open")}
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none"
    missing = len(claim.comparisons) - len(found)
    so_far, absent = (" so far", f"; {missing} more declared, without figures") if missing else ("", "")
    head = f"**{claim.words}. {verdict(found)}{so_far}** ({counted}{absent}).\n\n"
    lines = ["| compared | generated | stored | n | difference | |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    return head + "".join(line + "\n" for line in [*lines, *map(_line, found)])


def _line(each: Measured) -> str:
    unit = _UNITS[each.comparison.metric]
    mean, half_width = (f"{unit.scale * value:.{unit.decimals}f}" for value in each.difference)
    numbers = (f"{count:,}" for count in each.parameters)
    n = "/".join(map(str, dict.fromkeys(each.trainings))) + (f" ({each.failed} failed)" if each.failed else "")
    cells = [each.comparison.what, *numbers, n, f"{mean} ± {half_width} {unit.name}", each.outcome]
    return f"| {' | '.join(cells)} |"


class _Unit(NamedTuple):
    name: str
    scale: float
    decimals: int


_UNITS: Mapping[str, _Unit] = {
    "accuracy": _Unit("points", 100, 2),
    "Dice": _Unit("Dice", 1, 4),
    "mean squared error": _Unit("squared error", 1, 4),
}
# what counts as as good, of accuracies about 99 %, of Dice about 0.86, of squared errors about 0.009
_POINTS, _DICE, _ERROR = 0.002, 0.01, 0.0005
_ALL = "task=hippocampus epochs=10"
_PATIENTS = (10, 25, 50)
_STRONGEST = 0.2
_NOISES = ("gaussian", "salt-and-pepper", "speckle")
_SAME_SIZE = {"normal-5": "stored 5x5"}
_ANY = {**_SAME_SIZE, "normal-3": "stored 3x3", "dynunet": "MONAI's DynUNet"}


def _slices(what: str, rivals: Mapping[str, str], **more: Any) -> list[Comparison]:
    return [
        Comparison(
            f"U-Net, slices of MRI, {what}: 5x5 of N_L = {features} to {words}",
            *("unet", "hippocampus", "Dice", f"hyper-{features}", rival),
            **more,
        )
        for features in (4, 8)
        for rival, words in rivals.items()
    ]


def _digits(what: str, rivals: Mapping[str, str], **more: Any) -> list[Comparison]:
    return [
        Comparison(
            f"classifier, {what}: 5x5 of N_L = 4 to {words}",
            *("frontier", "mnist", "accuracy", "hyper-5x5-4", rival),
            **more,
        )
        for rival, words in rivals.items()
    ]


def _noisy_digits() -> list[Comparison]:
    rivals = {"normal": "stored 5x5", "normal-decayed": "stored 5x5 with weight decay"}
    ways = {"": "", f", {MEDIAN}": ", both behind a median filter"}
    return [
        Comparison(
            f"classifier of 10,000 digits, {noise} noise{words}: 5x5 to {stored}",
            *("robustness", "mnist", "accuracy", "hyper", rival),
            settings="samples=10000",
            at=f"{noise}{way}",
        )
        for noise in _NOISES
        for way, words in ways.items()
        for rival, stored in rivals.items()
    ]


CLAIMS: Mapping[str, Claim] = {
    "fewer-parameters": Claim(
        "Generated kernels are as accurate as stored ones of their size, with fewer parameters",
        [
            Comparison(
                "classifier, all digits: 5x5 of 16 features to stored 5x5",
                *("digits", "mnist", "accuracy", "hyper", "normal"),
                margin=_POINTS,
            ),
            Comparison(
                "`classroom`: 5x5 to stored 5x5",
                *("classroom", "mnist", "accuracy", "hyper", "normal"),
                margin=_POINTS,
            ),
            *(
                Comparison(
                    f"`classroom-autoencoder`, {way}, {bottleneck}",
                    *("classroom-autoencoder", "mnist", "mean squared error", f"hyper-{way}", f"normal-{way}"),
                    settings=settings,
                    margin=_ERROR,
                )
                for bottleneck, settings in {"16x1x1": "", "4x2x2": "bottleneck=4x2x2"}.items()
                for way in ("transposed", "upsampling")
            ),
            *_slices("all patients", _SAME_SIZE, settings=_ALL, margin=_DICE),
            *_digits("all digits", {"normal-5x5": "stored 5x5"}, margin=_POINTS),
        ],
    ),
    "few-data": Claim(
        "Generated kernels are more accurate where there are few data",
        [
            *(
                each
                for patients in _PATIENTS
                for each in _slices(
                    f"{patients} patients", _ANY, settings=f"task=hippocampus patients={patients} epochs=10"
                )
            ),
            *(
                each
                for few in (100, 1000, 10000)
                for each in _digits(
                    f"{few:,} digits",
                    {
                        "normal-3x3": "stored 3x3",
                        "normal-5x5": "stored 5x5",
                        "normal-5x5-width-4": "stored 5x5 of as few parameters",
                    },
                    settings=f"few={few}",
                )
            ),
        ],
    ),
    "noise": Claim(
        "Generated kernels are more robust to noise than stored ones of their size",
        [
            *(
                each
                for noise in _NOISES
                for each in _slices(f"{noise} noise", _SAME_SIZE, settings=_ALL, at=f"{noise} {_STRONGEST:g}")
            ),
            *_noisy_digits(),
        ],
    ),
}

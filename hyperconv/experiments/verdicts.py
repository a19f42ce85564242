"""What the paper claims of generated kernels, beside every comparison here that bears on it.

T. Ma, A. V. Dalca, M. R. Sabuncu, WACV 2022, https://arxiv.org/abs/2105.10559
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .results import FAILED, Result, TrainingKey
from .statistics import Interval, difference_interval, paired_interval

Outcome = Literal["for", "against", "open"]


class Comparison(NamedTuple):
    """Two arms of an experiment, measured alike.

    Attributes:
        what: in words, what is compared.
        generated, stored: the arms.
        metric: of which higher is better.
        at: as of `Result`.
        margin: by how much less of the metric counts as as good; 0 where the claim is that there is more.
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
        parameters: of both.
        trainings: that did not fail, of both.
    """

    comparison: Comparison
    difference: Interval
    parameters: tuple[int, int]
    trainings: tuple[int, int]

    @property
    def outcome(self) -> Outcome:
        """For the claim where the interval lies above less the margin, against it where it lies below 0."""
        mean, half_width = self.difference
        if mean - half_width > -self.comparison.margin:
            return "for"
        return "against" if mean + half_width < 0 else "open"


def measured(comparison: Comparison, rows: Sequence[Result]) -> Measured | None:
    """From test figures; None where an arm has fewer than two."""
    failed = {row.training for row in rows if row.metric == FAILED}

    def of(arm: str) -> dict[TrainingKey, Result]:
        wanted = (*comparison[1:4], arm, comparison.settings, comparison.at)
        return {
            row.training._replace(arm=""): row
            for row in rows
            if (row.experiment, row.data, row.metric, row.arm, row.settings, row.at) == wanted
            and row.split == "test"
            and row.noise_seed is None
            and row.training not in failed
        }

    arms = of(comparison.generated), of(comparison.stored)
    if min(map(len, arms)) < 2:
        return None
    a, b = ({key: row.value for key, row in each.items()} for each in arms)
    folds = all(key.fold is not None for each in arms for key in each) and a.keys() == b.keys()
    difference = paired_interval(a, b) if folds else difference_interval(list(a.values()), list(b.values()))
    sizes = [next(iter(each.values())).parameters for each in arms]
    return Measured(comparison, difference, (sizes[0], sizes[1]), (len(a), len(b)))


def verdict(found: Sequence[Measured]) -> str:
    """In words, of the comparisons of a claim."""
    outcomes = [each.outcome for each in found]
    if not outcomes:
        return "Not measured yet"
    if set(outcomes) == {"for"}:
        return "Holds"
    if "for" in outcomes:
        return "Holds in part"
    return "Does not hold" if set(outcomes) == {"against"} else "Not seen"


def claim_table(rows: Sequence[Result], claim: Claim) -> str:
    """The claim, its verdict, and a line for each comparison that was measured."""
    found = [each for comparison in claim.comparisons if (each := measured(comparison, rows))]
    counts = {outcome: sum(each.outcome == outcome for each in found) for outcome in ("for", "against", "open")}
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    missing = len(claim.comparisons) - len(found)
    absent = f"; {missing} more declared, without figures" if missing else ""
    head = f"**{claim.words}. {verdict(found)}** ({counted or 'none'}{absent}).\n\n"
    lines = ["| compared | generated | stored | n | difference | |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    return head + "".join(line + "\n" for line in [*lines, *map(_line, found)])


def _line(each: Measured) -> str:
    scale, unit = _UNITS[each.comparison.metric]
    mean, half_width = (f"{scale * value:.{_DECIMALS[unit]}f}" for value in each.difference)
    numbers = (f"{count:,}" for count in each.parameters)
    n = "/".join(map(str, dict.fromkeys(each.trainings)))
    return f"| {' | '.join([each.comparison.what, *numbers, n, f'{mean} ± {half_width} {unit}', each.outcome])} |"


_UNITS: Mapping[str, tuple[float, str]] = {"accuracy": (100, "points"), "Dice": (1, "Dice")}
_DECIMALS = {"points": 2, "Dice": 3}
# what counts as as good, of accuracies about 99 % and of Dice about 0.86
_POINTS, _DICE = 0.002, 0.01
_ALL = "task=hippocampus epochs=10"
_NOISES = ("gaussian", "salt-and-pepper", "speckle")
_GENERATED = {"hyper-4": "N_L = 4", "hyper-8": "N_L = 8"}
_STORED = {"normal-3": "3x3", "normal-5": "5x5"}


def _hippocampi(what: str, margin: float = 0.0, **more: Any) -> list[Comparison]:
    return [
        Comparison(
            f"U-Net, hippocampi{what}: 5x5 of {generated} to stored {stored}",
            *("unet", "hippocampus", "Dice", arm, rival),
            margin=margin,
            **more,
        )
        for arm, generated in _GENERATED.items()
        for rival, stored in _STORED.items()
    ]


def _digits(what: str, few: int | None, margin: float = 0.0) -> list[Comparison]:
    rivals = {"normal-3x3": "3x3", "normal-5x5": "5x5", "normal-5x5-width-4": "narrower 5x5"}
    return [
        Comparison(
            f"classifier, {what}: 5x5 of N_L = 4 to stored {stored}",
            *("frontier", "mnist", "accuracy", "hyper-5x5-4", rival),
            settings=f"few={few}" if few else "",
            # the narrower one has as few parameters
            margin=0.0 if "width" in rival else margin,
        )
        for rival, stored in rivals.items()
    ]


def _noisy_digits() -> list[Comparison]:
    rivals = {"normal": "5x5", "normal-decayed": "5x5 with weight decay"}
    ways = {"": "", ", median 3x3": ", both behind a median filter"}
    return [
        Comparison(
            f"classifier, digits with {noise} noise{words}: 5x5 to stored {stored}",
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
        "Generated kernels are as accurate with fewer parameters",
        [
            *(
                Comparison(what, name, "mnist", "accuracy", "hyper", "normal", margin=_POINTS)
                for name, what in {
                    "digits": "classifier, all digits: 5x5 of N_L = 16 to stored 5x5",
                    "static": "static hypernetwork: 7x7 to stored 7x7",
                    "classroom": "the class's classifier",
                }.items()
            ),
            *(
                each
                for each in _hippocampi(", all patients", _DICE, settings=_ALL)
                if (each.generated, each.stored) != ("hyper-8", "normal-3")  # which has fewer parameters
            ),
            *_digits("all digits", None, _POINTS),
        ],
    ),
    "few-data": Claim(
        "Generated kernels are more accurate where there are few data",
        [
            *(
                each
                for patients in (10, 25, 50)
                for each in _hippocampi(
                    f", {patients} patients", settings=f"task=hippocampus patients={patients} epochs=10"
                )
            ),
            *(each for few in (100, 1000, 10000) for each in _digits(f"{few:,} digits", few)),
        ],
    ),
    "noise": Claim(
        "Generated kernels are more robust to noise",
        [
            *(each for noise in _NOISES for each in _hippocampi(f", {noise} 0.2", settings=_ALL, at=f"{noise} 0.2")),
            *_noisy_digits(),
        ],
    ),
}

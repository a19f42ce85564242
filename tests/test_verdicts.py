from dataclasses import fields, replace
from typing import get_args

import pytest
import torchmetrics
from test_results import ROOT, TURNS, row

from hyperconv.data.noise import NOISES
from hyperconv.experiments import results, verdicts
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.frontier import Count
from hyperconv.experiments.robustness import MEDIAN
from hyperconv.experiments.verdicts import CLAIMS, Claim, Comparison, claim_table, measured
from hyperconv.training.objectives import Metric


@pytest.fixture(autouse=True)
def turns(monkeypatch):
    error = Metric("error", "error", torchmetrics.MeanMetric, "lower")
    objective = replace(TURNS.objective, metrics=(*TURNS.objective.metrics, error))
    monkeypatch.setitem(experiments(), "turns", replace(TURNS, objective=objective))


PAIR = Comparison("generated to stored", "turns", "mnist", "accuracy", "hyper", "normal")


def figures(generated, stored, folds=False, **more):
    of_arms = {"hyper": generated, "normal": stored}
    return [
        row(arm=arm, value=value, **({"seed": 0, "fold": n} if folds else {"seed": n}), **more)
        for arm, values in of_arms.items()
        for n, value in enumerate(values)
    ]


def failure(**training):
    return row(split="validation", metric="failed", value=1.0, **training)


@pytest.mark.parametrize(
    ("generated", "stored", "margin", "outcome"),
    [
        ((0.95, 0.951, 0.952), (0.90, 0.901, 0.902), 0, "for"),
        ((0.90, 0.901, 0.902), (0.95, 0.951, 0.952), 0, "against"),
        ((0.90, 0.95, 0.93), (0.94, 0.90, 0.95), 0, "open"),
        # a tenth of a point less
        ((0.900, 0.9001, 0.9002), (0.901, 0.9011, 0.9012), 0, "against"),
        ((0.900, 0.9001, 0.9002), (0.901, 0.9011, 0.9012), 0.002, "for"),
        ((0.900, 0.9001, 0.9002), (0.904, 0.9041, 0.9042), 0.002, "against"),
        # the interval reaches beyond the margin, and not to 0
        ((0.900, 0.9005, 0.901), (0.902, 0.9025, 0.903), 0.002, "against"),
    ],
)
def test_an_interval_speaks_for_a_claim_against_it_or_not(generated, stored, margin, outcome):
    assert measured(PAIR._replace(margin=margin), figures(generated, stored)).outcome == outcome
    # of errors, less is better
    error = PAIR._replace(metric="error", margin=margin)
    assert measured(error, figures(stored, generated, metric="error")).outcome == outcome


def test_folds_are_compared_in_pairs_and_seeds_are_not():
    generated, stored = (0.7, 0.8, 0.9), (0.69, 0.79, 0.89)
    folds = figures(generated, stored, folds=True)
    assert measured(PAIR, folds).outcome == "for"
    assert measured(PAIR, figures(generated, stored)).outcome == "open"
    one_less = measured(PAIR, [*folds, failure(arm="normal", seed=0, fold=2)])
    assert (one_less.trainings, one_less.failed, one_less.outcome) == ((2, 2), 1, "for")
    assert measured(PAIR, [*folds, *(failure(arm="normal", seed=0, fold=fold) for fold in (1, 2))]) is None


def test_trainings_that_failed_and_figures_of_other_things_are_no_part_of_a_comparison():
    rows = figures((0.95, 0.951, 0.1), (0.90, 0.901))
    others = [
        row(arm="hyper", seed=3, value=0.0, **other)
        for other in ({"at": "noise"}, {"settings": "epochs=1"}, {"noise_seed": 1}, {"split": "validation"})
    ]
    found = measured(PAIR, [*rows, failure(arm="hyper", seed=2), *others])
    assert (found.trainings, found.failed) == ((2, 2), 1)
    assert found.difference.mean == pytest.approx(0.05)
    assert measured(PAIR, figures((0.95,), (0.9, 0.91))) is None


def test_a_claim_is_told_with_its_verdict_and_what_was_not_measured():
    better, worse = figures((0.95, 0.951), (0.90, 0.901)), figures((0.90, 0.901), (0.95, 0.951))
    elsewhere, open_there = (
        figures(*values, at="noise") for values in (((0.90, 0.901), (0.95, 0.951)), ((0.9, 0.95), (0.95, 0.9)))
    )
    both = Claim("It is better", [PAIR, PAIR._replace(at="noise")])
    assert claim_table(better, both).startswith(
        "**It is better. Holds so far** (1 for; 1 more declared, without figures).\n\n| compared"
    )
    assert "| generated to stored | 1,000 | 1,000 | 2 | 5.00 ± 0.30 points | for |" in claim_table(better, both)
    assert "| 2 (1 failed) |" in claim_table([*better, failure(arm="hyper", seed=9)], both)
    assert "Does not hold** (1 for, 1 against)" in claim_table([*better, *elsewhere], both)
    assert "Holds in part** (1 for, 1 open)" in claim_table([*better, *open_there], both)
    assert "Does not hold" in claim_table(worse, both)
    assert "Not seen" in claim_table(open_there, both)
    assert "Not measured so far** (none; 2 more" in claim_table([], both)


def test_what_is_compared_is_declared():
    """Arms, metrics, settings and conditions are those of the experiments, so that no figure is missed for its name."""
    rows = results.read(ROOT / "lightning_logs" / "results.csv")
    trained = {row.experiment for row in rows}
    for comparison in (each for claim in CLAIMS.values() for each in claim.comparisons):
        if comparison.experiment in trained:
            assert measured(comparison, rows), comparison
        experiment = experiments()[comparison.experiment]
        assert {comparison.generated, comparison.stored} <= experiment.arms.keys()
        assert comparison.metric in [metric.name for metric in experiment.objective.metrics]
        assert comparison.metric in verdicts._UNITS
        told = dict(word.split("=") for word in comparison.settings.split())
        options = told.keys() - {"epochs", "samples"}
        assert not options or options <= {field.name for field in fields(experiment.options)}
        assert told.get("few", "100") in map(str, get_args(Count))
        noise, _, way = comparison.at.partition(", ")
        assert noise.partition(" ")[0] in ("", *NOISES) and way in ("", MEDIAN)


def test_no_arm_of_the_study_is_measured_before_it_was_tuned():
    rows, trials = (results.read(ROOT / "lightning_logs" / name) for name in ("results.csv", "tuning.csv"))
    for experiment in ("frontier", "robustness"):
        tuned = {(row.arm, row.settings.partition(" ")[0]) for row in trials if row.experiment == experiment}
        of_study = {(row.arm, row.settings) for row in rows if row.experiment == experiment}
        assert {(arm, settings) for arm, settings in of_study if "few" in settings or "samples" in settings} <= tuned

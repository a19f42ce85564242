from dataclasses import fields

import pytest
from test_results import row

from hyperconv.experiments import verdicts
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.verdicts import CLAIMS, Claim, Comparison, claim_table, measured

PAIR = Comparison("generated to stored", "turns", "mnist", "accuracy", "hyper", "normal")


def figures(generated, stored, folds=False):
    of_arms = {"hyper": generated, "normal": stored}
    return [
        row(
            arm=arm,
            value=value,
            data="mnist",
            split="test",
            metric="accuracy",
            **({"seed": 0, "fold": n} if folds else {"seed": n}),
        )
        for arm, values in of_arms.items()
        for n, value in enumerate(values)
    ]


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
    ],
)
def test_an_interval_speaks_for_a_claim_against_it_or_not(generated, stored, margin, outcome):
    assert measured(PAIR._replace(margin=margin), figures(generated, stored)).outcome == outcome


def test_folds_are_compared_in_pairs_and_seeds_are_not():
    generated, stored = (0.7, 0.8, 0.9), (0.69, 0.79, 0.89)
    assert measured(PAIR, figures(generated, stored, folds=True)).outcome == "for"
    assert measured(PAIR, figures(generated, stored)).outcome == "open"


def test_trainings_that_failed_and_figures_of_other_things_are_no_part_of_a_comparison():
    rows = figures((0.95, 0.951, 0.1), (0.90, 0.901))
    failed = row(arm="hyper", seed=2, data="mnist", split="validation", metric="failed", value=1.0)
    others = [
        row(arm="hyper", seed=3, data="mnist", split="test", metric="accuracy", value=0.0, **other)
        for other in ({"at": "noise"}, {"settings": "epochs=1"}, {"noise_seed": 1})
    ]
    found = measured(PAIR, [*rows, failed, *others, row(arm="hyper", seed=4, data="mnist", split="validation")])
    assert found.trainings == (2, 2)
    assert found.difference.mean == pytest.approx(0.05)
    assert measured(PAIR, figures((0.95,), (0.9, 0.91))) is None


def test_a_claim_is_told_with_its_verdict_and_what_was_not_measured():
    better, worse = figures((0.95, 0.951), (0.90, 0.901)), figures((0.90, 0.901), (0.95, 0.951))
    elsewhere = [each.__class__(**{**vars(each), "at": "noise"}) for each in worse]
    both = Claim("It is better", [PAIR, PAIR._replace(at="noise")])
    assert claim_table(better, both).startswith(
        "**It is better. Holds** (1 for; 1 more declared, without figures).\n\n| compared"
    )
    assert "| generated to stored | 1,000 | 1,000 | 2 | 5.00 ± 0.30 points | for |" in claim_table(better, both)
    assert "Holds in part** (1 for, 1 against)" in claim_table([*better, *elsewhere], both)
    assert "Does not hold" in claim_table(worse, both)
    assert "Not seen" in claim_table(figures((0.9, 0.95), (0.95, 0.9)), both)
    assert "Not measured yet** (none; 2 more" in claim_table([], both)


def test_what_is_compared_is_declared():
    """Arms, metrics and settings are those of the experiments, so that no figure can be missed for a name's sake."""
    for comparison in (each for claim in CLAIMS.values() for each in claim.comparisons):
        experiment = experiments()[comparison.experiment]
        assert {comparison.generated, comparison.stored} <= experiment.arms.keys()
        assert comparison.metric in [metric.name for metric in experiment.objective.metrics]
        assert comparison.metric in verdicts._UNITS
        told = dict(word.split("=") for word in comparison.settings.split())
        options = told.keys() - {"epochs", "samples"}
        assert not options or options <= {field.name for field in fields(experiment.options)}

from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import ROOT, run_script

from hyperconv.experiments import results, study
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.robustness import HIGH_FREQUENCIES, MEDIAN
from hyperconv.experiments.sweep import read_trials

ROW = results.Result(
    experiment="frontier",
    settings="",
    arm="",
    seed=0,
    noise_seed=None,
    fold=None,
    data="mnist",
    split="test",
    metric="accuracy",
    at="",
    value=0.0,
    parameters=0,
    operations=0,
    epochs=5,
    seconds=1.0,
    command="",
    date="",
    versions="",
    commit="",
)


def of_frontier():
    draws = np.random.default_rng(0)
    return [
        replace(ROW, arm=arm, settings=few, seed=seed, value=value, parameters=1000 + number, operations=10**6 + number)
        for few in ("few=100", "few=1000", "")
        for number, arm in enumerate(experiments()["frontier"].arms)
        for seed, value in enumerate(draws.uniform(0.9, 0.99, 5))
    ]


def of_robustness():
    draws = np.random.default_rng(0)
    rows = []
    for number, arm in enumerate(experiments()["robustness"].arms):
        for seed in range(5):
            own = replace(ROW, experiment="robustness", settings="samples=10000", arm=arm, seed=seed)
            for number_of_noise, noise in enumerate(("salt-and-pepper", "gaussian", "speckle")):
                for way, gain in (("", 0.0), (f", {MEDIAN}", 0.05)):
                    value = 0.8 - number / 10 + number_of_noise / 100 + gain
                    rows.append(replace(own, at=f"{noise}{way}", value=value))
            rows.append(replace(own, metric=HIGH_FREQUENCIES, value=number / 10 + draws.uniform(0, 1e-3)))
    return rows


def test_the_frontier_shows_every_arm_at_what_it_costs():
    rows = of_frontier()
    # what was tried, and other data, are no part of it
    others = [
        replace(rows[0], settings="few=100 learning_rate=1", value=0.0),
        replace(rows[0], data="other", value=0.0),
    ]
    figure = study.frontier([*rows, *others])
    assert [axis.get_title() for axis in figure.axes[:3]] == [
        "100 training digits",
        "1000 training digits",
        "all training digits",
    ]
    count = len(experiments()["frontier"].arms)
    for row, cost in zip((figure.axes[:3], figure.axes[3:]), (1000, 10**6), strict=True):
        for axis in row:
            points = [bars[0] for bars in axis.containers]
            assert [line.get_xdata()[0] for line in points] == [cost + number for number in range(count)]
    own = [100 * (1 - row.value) for row in rows if (row.settings, row.arm) == ("few=100", "hyper-5x5-4")]
    place = list(experiments()["frontier"].arms).index("hyper-5x5-4")
    assert figure.axes[0].containers[place][0].get_ydata()[0] == pytest.approx(np.mean(own))
    plt.close(figure)


def test_the_grid_holds_means_where_they_belong():
    rows = of_frontier()
    own = [row.value for row in rows if (row.settings, row.arm) == ("few=100", "hyper-5x5-4")]
    figure = study.grid(rows)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 12
    assert texts[5] == f"{np.mean(own):.3f}"
    plt.close(figure)


def test_robustness_falls_with_what_is_fine_where_it_does():
    rows = of_robustness()
    failed = replace(rows[0], split="validation", metric=results.FAILED, value=1.0)
    figure = study.robustness([*rows, failed])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(experiments()["robustness"].arms)
    as_it_is, filtered = (list(bars[0].get_xdata()) for bars in left.containers)
    assert as_it_is == pytest.approx([81 - 10 * number for number in range(6)])
    assert filtered == pytest.approx([86 - 10 * number for number in range(6)])
    pooled, within = right.get_title().split("\n")
    assert pooled.startswith("clean trainings: r = -1.00") and "n = 19" in pooled
    assert within.startswith("within their arms: r = ")
    plt.close(figure)


def test_what_is_missing_is_said_in_a_line(capsys, tmp_path):
    file = tmp_path / "results.csv"
    code, _, errors = run_script(capsys, study.main, study.Study, "--results", str(file))
    assert (code, errors) == (2, f"error: there are no results {file}\n")
    results.write(file, [ROW])
    code, _, errors = run_script(
        capsys, study.main, study.Study, "--results", str(file), "--only", "robustness", "--out", str(tmp_path)
    )
    assert code == 2 and "main.py sweep studies/robustness.yaml" in errors
    code, _, errors = run_script(capsys, study.main, study.Study, "--results", str(file), "--only", "no")
    assert code == 2 and "there are frontier, grid, robustness" in errors


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_names_arms_and_options_that_there_are(file):
    for trial in read_trials(file):
        flags = dict(zip(trial[::2], trial[1::2], strict=True))
        experiment = experiments()[flags["--experiment"]]
        assert flags["--arms"] in experiment.arms
        for name in ("few", "unseen"):
            assert f"--{name}" not in flags or hasattr(experiment.options(), name)


@pytest.mark.parametrize("name", ("frontier", "robustness", "conditioned", "hypermorph"))
def test_every_study_has_all_arms_and_five_trainings_of_each(name):
    experiment = experiments()[name]
    counts = Counter()
    for trial in read_trials(ROOT / "studies" / f"{name}.yaml"):
        flags = dict(zip(trial[::2], trial[1::2], strict=True))
        conditions = tuple(flags.get(f"--{option}") for option in ("few", "unseen"))
        counts[flags["--arms"], conditions] += 5 if "--few" in flags else 1
    assert {arm for arm, _ in counts} == set(experiment.arms)
    assert set(counts.values()) == {5}

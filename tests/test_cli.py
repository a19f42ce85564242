import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from hyperconv import cli
from hyperconv.cli import Seed, Size
from hyperconv.errors import InputError


@dataclass(frozen=True)
class Common:
    """Train anything.

    Args:
        experiment: what to train.
        arms: which of its arms.
        seed: of weights and shuffling.
        batch_size: samples a step.
        quick: for a first look.
        name: of the run.
    """

    experiment: str = "digits"
    arms: tuple[str, ...] = ()
    seed: Seed = 0
    batch_size: Size | None = None
    quick: bool = False
    name: str | None = None


@dataclass(frozen=True)
class Digits:
    """Options of digits.

    Args:
        norm: of generated kernels.
        kernel_size: of the convolutions.
        hidden: widths of the hidden layers.
        augmented: whether digits are turned.
    """

    norm: Literal["stateless", "none"] = "stateless"
    kernel_size: Size = 5
    hidden: tuple[Size, ...] = (16, 16)
    augmented: bool = False


@dataclass(frozen=True)
class Required:
    """Options without a default.

    Args:
        folder: of the volumes.
    """

    folder: str


def settings_of(args):
    options = {"digits": Digits, "volumes": Required}
    name = cli.value_of("experiment", args, Common.experiment)
    if name not in options:
        raise InputError(f"there is no experiment {name}")
    return Common, options[name]


def stop_of(capsys, args, main=lambda *settings: None, settings=settings_of):
    with pytest.raises(SystemExit) as stop:
        cli.run(main, settings, args)
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def script(text: str, *args: bytes | str, **environment: str) -> subprocess.Popen:
    """A process that runs this text, its streams piped as bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *args],
        env={**os.environ, **environment},
        cwd=Path(cli.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_run_and_its_experiments_options_are_one_command_line():
    got = []
    args = ["--seed=3", "--kernel-size", "7", "--hidden", "8", "4", "--arms", "hyper", "--augmented"]
    cli.run(lambda *settings: got.append(settings), settings_of, args)
    assert got == [(Common(seed=3, arms=("hyper",)), Digits(kernel_size=7, hidden=(8, 4), augmented=True))]
    assert type(got[0][1].kernel_size) is int
    args = ["--folder", "here", "--experiment", "volumes"]
    cli.run(lambda *settings: got.append(settings), settings_of, args)
    assert got[1] == (Common(experiment="volumes"), Required("here"))
    cli.run(lambda *settings: got.append(settings), settings_of, [])
    assert got[2] == (Common(), Digits())


def test_help_shows_the_chosen_experiments_flags_under_its_title(capsys):
    code, out, _ = stop_of(capsys, ["--help", "--experiment", "digits"])
    assert code == 0
    text = out[out.index("Train anything.") :]
    assert text.index("--batch_size") < text.index("Options of digits:") < text.index("--norm")
    assert "widths of the hidden layers." in " ".join(out.split())
    code, out, _ = stop_of(capsys, ["--experiment=volumes", "--help"])
    assert "--folder" in out
    assert "--norm" not in out


@pytest.mark.parametrize(
    ("args", "named"),
    (
        (["--experiment", "volumes"], "folder"),
        (["--experiment", "volumes", "--folder", "x", "--kernel_size", "3"], "--kernel_size"),
        (["--experiment", "sheep"], "there is no experiment sheep"),
        (["--experiment"], "experiment"),
        (["--kernel", "3"], "--kernel"),
        (["--norm", "odd"], "norm"),
        (["--augmented", "yes"], "yes"),
        (["--hidden"], "hidden"),
        (["--hidden", "8", "0"], "hidden"),
        (["--batch_size", "9" * 20], "batch_size"),
        (["--batch_size", "9" * 5000], "batch_size"),
        (["--batch_size", "-1"], "batch_size"),
        (["--hidden", "9" * 20], "hidden"),
        (["--seed", str(2**64)], "seed"),
        (["--seed", str(2**32)], "seed"),
        (["--seed", "1.5"], "seed"),
        (["--name", os.fsdecode(b"caf\xe9")], r"\udce9"),
        (["--sh\ud800eep"], r"\ud800"),
        (["--batch_size", "&a [*a, *a]"], "batch_size"),
        (["--batch_size", "{" * 2000], "batch_size"),
    ),
)
def test_what_cannot_be_used_is_one_line_and_exit_code_two(capsys, args, named):
    code, out, err = stop_of(capsys, args)
    assert code == 2
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1200
    assert named in err


def test_the_largest_values_are_taken():
    common, digits = cli.parsed([Common, Digits], ["--seed", str(2**32 - 1), "--hidden", str(2**31 - 1)])
    assert (common.seed, digits.hidden) == (2**32 - 1, (2**31 - 1,))


def test_two_dataclasses_with_one_flag_are_refused_by_name():
    @dataclass(frozen=True)
    class Other:
        """Options of another.

        Args:
            seed: of the data.
        """

        seed: Seed = 1

    with pytest.raises(ValueError, match="Common and Other both declare the flag --seed"):
        cli.parsed([Common, Other], [])


def test_a_switch_that_cannot_be_turned_off_is_refused():
    @dataclass(frozen=True)
    class Other:
        """Options of another.

        Args:
            fast: whether to hurry.
        """

        fast: bool = True

    with pytest.raises(ValueError, match="--fast takes no value, so it must be False by default"):
        cli.parsed([Other], [])


STORED = {"experiment": "digits", "arms": ["hyper"], "seed": 3, "batch_size": None, "quick": True, "name": "a"}


def test_stored_settings_are_checked_as_flags_are():
    assert cli.from_stored(Common, STORED) == Common(arms=("hyper",), seed=3, quick=True, name="a")


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"seed": 2**32}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"arms": "hyper"}, "arms must be a list"),
        ({"quick": "yes"}, "quick must be true or false"),
        ({"experiment": None}, "experiment has no value"),
        ({"name": "a\0b"}, "name has a character that no path can have"),
        ({"odd": 1}, "odd"),
    ),
)
def test_stored_settings_that_cannot_be_used_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        cli.from_stored(Common, {**STORED, **changes})
    with pytest.raises(InputError, match="seed is missing"):
        cli.from_stored(Common, {name: value for name, value in STORED.items() if name != "seed"})


def test_what_an_encoding_lacks_is_printed_as_a_question_mark():
    text = (
        "from dataclasses import dataclass; from hyperconv import cli\n"
        "@dataclass\nclass Settings:\n    '''λ ± 中'''\n    name: str = 'λ ±'\n"
        "def main(settings): cli.console().print(settings.name)\n"
        "for args in ([], None, ['--help']): cli.run(main, Settings, args)"
    )
    process = script(text, "--name", "é".encode(), PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"? ?\n?\nusage:")
    assert b"\n? ? ?\n" in out


def test_a_reader_that_goes_away_is_no_error():
    text = (
        "from dataclasses import dataclass; from hyperconv import cli\n"
        "@dataclass\nclass Settings:\n    '''Print.'''\n    lines: int = 1\n    table: bool = False\n"
        "def main(settings): (cli.console().print if settings.table else print)('line\\n' * settings.lines)\n"
        "cli.run(main, Settings)"
    )
    for args in ([], ["--lines", "9999", "--table"]):
        process = script(text, *args)
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_tables_print_paths_as_they_are(capsys):
    cli.console().print("logs/[/red]/:smile:/[bold]x")
    assert capsys.readouterr().out == "logs/[/red]/:smile:/[bold]x\n"

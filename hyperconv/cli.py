"""What the scripts share: flags made from documented dataclasses, and errors as one line with exit code 2.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Run:
...     '''Train a network.
...
...     Args:
...         experiment: what to train.
...         seed: of weights and shuffling.
...     '''
...     experiment: str = "digits"
...     seed: Seed = 0
>>> @dataclass(frozen=True)
... class Digits:
...     '''Options of digits.
...
...     Args:
...         kernel_size: of the convolutions.
...         hidden: widths of the generators' hidden layers.
...     '''
...     kernel_size: Size = 5
...     hidden: tuple[Size, ...] = (16, 16)
>>> options = {"digits": Digits, "static": None}
>>> def settings_of(args):
...     chosen = options[value_of("experiment", args, Run.experiment)]
...     return (Run, chosen) if chosen else (Run,)
>>> def main(run: Run, options: Digits | None = None) -> None:
...     print(run, options)
>>> run(main, settings_of, ["--seed", "3", "--hidden", "8", "4"])
Run(experiment='digits', seed=3) Digits(kernel_size=5, hidden=(8, 4))
>>> run(main, settings_of, ["--experiment", "static"])
Run(experiment='static', seed=0) None
>>> parsed((Run, Digits), ["--kernel-size=7"])
(Run(experiment='digits', seed=0), Digits(kernel_size=7, hidden=(16, 16)))
"""

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser
from jsonargparse.typing import restricted_number_type
from rich.console import Console

from .errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

# of both numpy's generators and torch's
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", 2**32 - 1)])
# a number of anything: samples, channels, epochs
Size = restricted_number_type("Size", int, [(">=", 1), ("<=", 2**31 - 1)])

_PIPE_CLOSED = 141
_PIPED_WIDTH = 140
_LONGEST_MESSAGE = 1000


def run(
    main: Callable[..., Any],
    settings: type | Sequence[type] | Callable[[Sequence[str]], Sequence[type]],
    args: Sequence[str] | None = None,
) -> None:
    """Parse the command line and call ``main`` with the settings that it gives; see this module's example.

    What the output's encoding lacks is printed as a question mark.
    Exit codes: 0 done; 2 bad input, after one line that says what is wrong; 130 interrupted; 141 the reader of the
    output (``| head``) has gone.

    Args:
        main: takes an instance of each of the settings.
        settings: dataclasses as in `parsed`, or what makes them of the arguments: where a flag decides which others
            there are, see `value_of`.
        args: instead of the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # and nothing that a notebook has put there
            stream.reconfigure(errors="replace")
    args = sys.argv[1:] if args is None else args
    try:
        chosen = (settings,) if isinstance(settings, type) else settings
        main(*parsed(chosen(args) if callable(chosen) else chosen, args))
        sys.stdout.flush()
    except ArgumentError as error:
        _stop(f"{error} (see --help)", 2)
    except InputError as error:
        _stop(str(error), 2)
    except BrokenPipeError:
        # else the interpreter flushes what is left, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_PIPE_CLOSED) from None
    except OSError as error:
        _stop(f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)


def parsed(settings: Sequence[type], args: Sequence[str]) -> tuple[Any, ...]:
    """An instance of each dataclass, from one command line with the flags of all.

    A field is a flag, which may be written with dashes or underscores; a boolean one takes no value, a tuple several.
    The help is made of the docstrings: the first one's summary is the program's, the others' are titles of their flags.

    Raises:
        ArgumentError: a flag that is unknown or cannot have that value.
        InputError: an argument that is no UTF-8.
        ValueError: two dataclasses that declare the same flag, or a boolean field that is not False by default.
    """
    for arg in args:
        _check_text(arg)
    values = vars(_parser(settings).parse_args([_with_underscores(arg) for arg in args]))
    return tuple(_made(each, {field.name: values[field.name] for field in fields(each)}) for each in settings)


def value_of(flag: str, args: Sequence[str], default: str) -> str:
    """The value that a flag is given, before it is known which other flags there are.

    >>> value_of("experiment", ["--seed", "3", "--experiment=static"], "digits")
    'static'
    """
    value = default
    given = [_with_underscores(arg) for arg in args]
    for arg, following in pairwise([*given, ""]):
        name, equals, text = arg.partition("=")
        if name == f"--{flag}":
            value = text if equals else following
    return value


def flag_texts(flag: str, value: Any) -> list[str]:
    """A flag with its value as a command line has them; nothing for False or None.

    >>> flag_texts("hidden", [8, 4]), flag_texts("quick", True), flag_texts("quick", False)
    (['--hidden', '8', '4'], ['--quick'], [])
    """
    if value is None or value is False:
        return []
    values = [] if value is True else value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]


def from_stored(settings: type[Settings], stored: dict[str, Any]) -> Settings:
    """Settings as a file holds them, checked as flags are.

    Raises:
        InputError: a setting that is missing, unknown or not of its kind.
    """
    missing = {field.name for field in fields(settings)} - stored.keys()
    if missing:
        raise InputError(f"{min(missing)} is missing")
    hints = get_type_hints(settings)
    for name, value in stored.items():
        # the parser checks none of these
        if value is None and name in hints and type(None) not in get_args(hints[name]):
            raise InputError(f"{name} has no value")
        if hints.get(name) is bool and not isinstance(value, bool):
            raise InputError(f"{name} must be true or false, got {value!r}")
        if get_origin(hints.get(name)) is tuple and not isinstance(value, list):
            raise InputError(f"{name} must be a list, got {value!r}")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{name} has a character that no path can have, in {value!r}")
    try:
        return _made(settings, vars(_parser([settings]).parse_object(stored)))
    except (ArgumentError, TypeError) as error:
        raise InputError(str(error)) from error


def console() -> Console:
    """For tables: it prints text as it is, whatever brackets and colons are in it, and not too narrow where piped."""
    piped = not Console().is_terminal
    return _Console(width=_PIPED_WIDTH if piped else None, markup=False, emoji=False, highlight=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `run`, instead of an exit code of rich's own


def _parser(settings: Sequence[type]) -> ArgumentParser:
    documentation = [parse(each.__doc__ or "") for each in settings]
    summaries = [each.short_description or "" for each in documentation]
    parser = ArgumentParser(
        prog=Path(sys.argv[0]).name, description=summaries[0], exit_on_error=False, allow_abbrev=False
    )
    groups = [parser, *(parser.add_argument_group(summary.rstrip(".")) for summary in summaries[1:])]
    declared: dict[str, type] = {}
    for each, texts, group in zip(settings, documentation, groups, strict=True):
        helps = {parameter.arg_name: parameter.description for parameter in texts.params}
        hints = get_type_hints(each)
        for field in fields(each):
            if field.name in declared:
                other = declared[field.name].__name__
                raise ValueError(f"{other} and {each.__name__} both declare the flag --{field.name}; rename one")
            declared[field.name] = each
            group.add_argument(f"--{field.name}", help=helps.get(field.name), **_kind(field, hints[field.name]))
    return parser


def _kind(field: Field, hint: Any) -> dict[str, Any]:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if hint is bool:
        if default is not False:
            raise ValueError(f"the flag --{field.name} takes no value, so it must be False by default")
        return {"action": "store_true"}
    given: dict[str, Any] = {"required": True} if default is MISSING else {"default": default}
    if get_origin(hint) is tuple:
        if default is not MISSING:
            given["default"] = list(default)
        return {"nargs": "+", "type": get_args(hint)[0], **given}
    return {"type": hint, **given}


def _made(settings: type[Settings], values: dict[str, Any]) -> Settings:
    return settings(**{name: _plain(value) for name, value in values.items()})


def _check_text(arg: str) -> None:
    try:
        os.fsencode(arg).decode()
    except UnicodeError:
        shown = arg.encode(errors="backslashreplace").decode()
        raise InputError(f"the argument {shown} is no UTF-8 text; rename the file or choose another name") from None


def _with_underscores(arg: str) -> str:
    name, equals, value = arg.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if arg.startswith("--") else arg


def _plain(value: Any) -> Any:
    """Restricted numbers, which only their parser knows, as numbers that any file format takes."""
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    for kind in (int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())[:_LONGEST_MESSAGE]}", file=sys.stderr)
    raise SystemExit(code)

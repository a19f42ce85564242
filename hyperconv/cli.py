"""What the scripts share: flags made from a documented dataclass, and errors as one line with exit code 2."""

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

from .errors import InputError

Settings = TypeVar("Settings")


def run(main: Callable[[Settings], Any], settings: type[Settings], args: Sequence[str] | None = None) -> None:
    """Parse the command line into ``settings``, whose docstring is the help, and call ``main`` with it.

    Flags may be written with dashes or underscores; a boolean field is a flag without a value.
    Exit codes: 0 done; 2 bad input, after one line that says what is wrong; 130 interrupted.
    """
    try:
        flags = [_with_underscores(arg) for arg in (sys.argv[1:] if args is None else args)]
        main(_made(settings, _parser(settings).parse_args(flags)))
    except ArgumentError as error:
        _stop(f"{error} (see --help)", 2)
    except InputError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)


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
    try:
        return _made(settings, _parser(settings).parse_object(stored))
    except (ArgumentError, TypeError) as error:
        raise InputError(str(error)) from error


def _parser(settings: type[Settings]) -> ArgumentParser:
    documentation = parse(settings.__doc__ or "")
    helps = {parameter.arg_name: parameter.description for parameter in documentation.params}
    hints = get_type_hints(settings)
    lists = {field.name: field.default for field in fields(settings) if get_origin(hints[field.name]) is tuple}
    switches = {field.name for field in fields(settings) if hints[field.name] is bool}
    parser = ArgumentParser(
        prog=Path(sys.argv[0]).name, description=documentation.short_description, exit_on_error=False
    )
    parser.add_class_arguments(settings, as_group=False, skip=switches | lists.keys())
    for name, default in lists.items():
        item = get_args(hints[name])[0]
        parser.add_argument(f"--{name}", nargs="+", type=item, default=list(default), help=helps[name])
    for name in sorted(switches):
        parser.add_argument(f"--{name}", action="store_true", help=helps[name])
    return parser


def _made(settings: type[Settings], parsed: Namespace) -> Settings:
    return settings(**{name: _plain(value) for name, value in vars(parsed).items()})


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
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)

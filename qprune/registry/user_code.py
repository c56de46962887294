"""The door to the user's own functions, named `module:function` and importable from the working directory."""

import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qprune.registry import nearest
from qprune.registry.errors import UserError
from qprune.registry.options import Option, fill


def is_user_code(name: object) -> bool:
    """Whether the name has the form module:function."""
    return isinstance(name, str) and name.count(":") == 1 and all(name.split(":"))


def check_trust(name: str, trust: Collection[str], source: object) -> None:
    """Raises UserError where a name that was read from a file means code of someone's own that isn't in `trust`.

    Building such a network runs it, and a results folder may come from anywhere.
    """
    if is_user_code(name) and name not in trust:
        raise UserError(
            f"{source} names {name}, code that using it would run. Where it is yours, or you trust it, say so: "
            f"--trust {name}, or trust=[{name!r}] in Python"
        )


def load_function(what: str, name: str) -> Callable:
    """The function that `module:function` names; `what` ("model", "data") begins every message.

    The working directory is put in front of the import path, as `python -m` does. Raises UserError where the
    module can't be imported, or has no such function.
    """
    module_name, function_name = name.split(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise UserError(f"{what} {name!r}: importing {module_name} fails: {error}") from error
        raise UserError(
            f"{what} {name!r}: there is no module {error.name!r}. It is looked for in the working directory "
            f"({here}) and among the installed packages; module:function names a function of such a module."
        ) from error
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything
        raise UserError(f"{what} {name!r}: importing {module_name} fails: {_in_a_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        where = getattr(module, "__file__", None) or module_name
        raise UserError(f"{what} {name!r}: no function {function_name!r} in {where}{nearest(function_name, functions)}")
    return function


def check_options(
    what: str, name: str, function: Callable, given: Mapping[str, Any], offered: Mapping[str, Any]
) -> dict:
    """The keyword arguments for the user's function: his options, and what of `offered` its signature takes.

    Raises UserError for an option that the function doesn't take and for a required one that isn't given.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # a builtin without a signature
        raise UserError(f"{what} {name!r}: its parameters can't be read ({error}); name a Python function.") from error
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_name = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for option in given:
        if option in offered:
            raise UserError(f"{what} {name!r}: option {option!r} is set by qprune and can't be given.")
    taken = [*by_name, *(given if takes_all else ())]
    options = {option: Option(by_name.get(option)) for option in sorted(set(taken) - set(offered))}
    filled = fill(f"{what} {name!r}", given, options)
    missing = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    missing += [option for option, value in filled.items() if value is inspect.Parameter.empty]
    if missing:
        raise UserError(f"{what} {name!r}: the function needs the option {missing[0]!r}, which isn't given.")
    return {key: value for key, value in offered.items() if key in by_name or takes_all} | filled


def source_hash(what: str, name: str) -> str:
    """SHA-256 of the source of the module, and of the file that defines the function where it is another one.

    NOTE What these files import isn't followed: an option of the function, raised by hand, tells qprune of
    a change elsewhere.
    """
    function = load_function(what, name)
    modules = {name.split(":")[0], getattr(function, "__module__", "")}
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file):  # modules that are built into Python have none
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


@contextmanager
def refusing_failures(what: str, name: str) -> Iterator[None]:
    """Makes a UserError of whatever the user's code raises in here, sys.exit() too, with the line of his that did."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        file = getattr(sys.modules.get(name.split(":")[0]), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f" ({file}, line {lines[-1]})" if lines else ""
        raise UserError(f"{what} {name!r} fails: {_in_a_line(error)}{place}") from error


def _in_a_line(error: BaseException) -> str:
    """Type and text of an error, in one line of at most some 300 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 300 else text[:297] + '...'}"

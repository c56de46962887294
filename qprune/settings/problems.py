"""What pydantic found wrong with a sweep file -> one message with a line per problem, in the order of the file."""

import difflib
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qprune.registry import nearest
from qprune.registry.show import show, show_key
from qprune.settings.yaml_source import KeyPath, Tree

MAX_PROBLEMS = 20  # lines of one message


def list_problems(error: ValidationError, tree: Tree, root: type[BaseModel]) -> str:
    """`file:line:column: key: problem` per problem, overrides last; root is the model of the whole file."""
    lines = []
    for item in error.errors(include_url=False):
        path = tuple(item["loc"]) + tuple(item.get("ctx", {}).get("at", ()))
        typed = tree.known_path(path)
        lines.append((tree.places[typed], typed, item, path))
    lines.sort(key=lambda line: (line[0].line == 0, line[0]))
    messages = [
        f"{place}: {_dotted(typed)}{_text(item, path, root)}" for place, typed, item, path in lines[:MAX_PROBLEMS]
    ]
    if len(lines) > MAX_PROBLEMS:
        messages.append(f"... and {len(lines) - MAX_PROBLEMS} more problems")
    return "\n".join(messages)


def _dotted(path: KeyPath) -> str:
    """`prune.ratios[1]: `, or nothing for the file itself."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{show_key(part)}" for part in path).lstrip(".")
    return f"{text}: " if text else ""


def _text(item: ErrorDetails, path: KeyPath, root: type[BaseModel]) -> str:
    if item["type"] == "qprune":
        return item["ctx"]["text"]
    if item["type"] == "extra_forbidden":
        return _unknown_key(path, root)
    if item["type"] == "missing":
        fields = _models(root)[str(path[0])].model_fields if len(path) > 1 else root.model_fields
        needed = [name for name, field in fields.items() if field.is_required()]
        return f"key {path[-1]!r} is missing; every {path[0] if len(path) > 1 else 'sweep'} needs {', '.join(needed)}"
    if item["type"] == "model_type":
        empty = "; leave the section out for its defaults" if item["input"] is None else ""
        return f"{show(item['input'])} is not a section with keys ({', '.join(_sections(root)[str(path[0])])}){empty}"
    return f"{show(item['input'])}: {item['msg']}"


def _sections(root: type[BaseModel]) -> dict[str, list[str]]:
    """Section -> its keys."""
    return {name: list(model.model_fields) for name, model in _models(root).items()}


def _models(root: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Section -> its model, also of one that may be null."""
    return {
        name: part
        for name, field in root.model_fields.items()
        for part in (field.annotation, *get_args(field.annotation))
        if isinstance(part, type) and issubclass(part, BaseModel)
    }


def _unknown_key(path: KeyPath, root: type[BaseModel]) -> str:
    """Says the nearest key of this section; where there is none, the nearest one elsewhere, and where."""
    *section, key = map(str, path)
    top, sections = list(root.model_fields), _sections(root)
    valid = sections[section[0]] if section else top
    elsewhere = {f"under {name!r}": _near(key, keys) for name, keys in sections.items() if [name] != section}
    if section:
        elsewhere["at the top level, not indented"] = _near(key, top)
    found = {place: near for place, near in elsewhere.items() if near}
    if _near(key, valid) or not found:
        return f"unknown key {show(key)}{nearest(key, valid)}"
    near = key if key in found.values() else next(iter(found.values()))
    places = " or ".join(place for place, name in found.items() if name == near)
    if near == key:
        return f"key {show(key)} belongs {places}"
    return f"unknown key {show(key)}; did you mean {near!r}, {places}?"


def _near(key: str, names: list[str]) -> str:
    """The name that is nearly the key, or an empty text."""
    return next(iter(difflib.get_close_matches(key, names, n=1, cutoff=0.75)), "")

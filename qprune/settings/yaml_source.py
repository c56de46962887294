"""YAML text -> plain values, with the place of every key and item, so that errors point at what was typed.

Scalars follow YAML 1.2's core schema: `1e-3` is a number, `yes` and `2024-01-01` are text. Anything that a settings
file has no use for (tags, keys that aren't text, keys given twice, aliases that blow up) is refused at its place.
"""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qprune.registry.errors import UserError
from qprune.registry.show import shorten, show, show_key

MAX_BYTES = 200_000  # of a file; PyYAML reads about 100 kB per second
MAX_VALUES = 50_000  # after aliases are expanded
MAX_DEPTH = 20  # of nested lists and mappings; a list that contains itself by an alias has no end
MAX_DIGITS = 40  # of one number

KeyPath = tuple[str | int, ...]  # ("prune", "ratios", 1): the second item of prune.ratios


class Place(NamedTuple):
    """Where a value was typed: a file with line and column (from 1), or an override (line 0)."""

    line: int
    column: int
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass
class Tree:
    """Plain values (dict, list, str, int, float, bool, None) and the place of each key and list item."""

    value: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def known_path(self, path: KeyPath) -> KeyPath:
        """The longest beginning of the path that was really typed (an item of a list that was one value: the key)."""
        while path not in self.places:
            path = path[:-1]
        return path


# Reading ------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file, or a UserError that says what is wrong with it."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, not a sweep file")
        if not path.exists():
            raise UserError(f"{path}: no such file{_near_file(path)}; `qprune init` writes a commented sweep file")
        if not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{shorten(str(path))}: can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: has more than {MAX_BYTES:,} bytes, which no sweep file needs")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - before.rfind(b"\n"), str(path))
        raise UserError(f"{place}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def _near_file(path: Path) -> str:
    siblings = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


# Parsing ------------------------------------------------------------------------------------------------------------


def parse(text: str, source: str, has_lines: bool = True) -> Tree:
    """The values of one YAML document and their places.

    source names the text in errors; has_lines is False for an override, whose place is its own text.
    Raises UserError with the place of whatever isn't YAML or isn't allowed here.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{_place(mark, source, has_lines)}: {_syntax_problem(error)}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - before.rfind("\n"), source)
        place = place if has_lines else Place(0, 0, source)
        raise UserError(f"{place}: character U+{error.character:04X} is not allowed in YAML") from error
    except (ValueError, OverflowError) as error:  # PyYAML lets these through for impossible escapes: "\UFFFFFFFF"
        problem = "not valid YAML: a number or escape that is out of range"
        raise UserError(f"{_place(loader.get_mark(), source, has_lines)}: {problem}") from error
    builder = _Builder(source, has_lines)
    builder.tree.places[()] = Place(1, 1, source) if has_lines else Place(0, 0, source)
    if root is not None:
        builder.tree.value = builder.build(root, ())
    return builder.tree


def _place(mark: yaml.Mark, source: str, has_lines: bool) -> Place:
    return Place(mark.line + 1, mark.column + 1, source) if has_lines else Place(0, 0, source)


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context
    if error.problem and error.context_mark:
        problem = f"{problem} ({error.context} in line {error.context_mark.line + 1})"
    problem = problem if len(problem) <= 200 else problem[:197] + "..."
    remedy = "; indent with spaces, not with tabs" if r"'\t'" in problem else ""
    return f"not valid YAML: {problem}{remedy}"


_NULL, _BOOL, _INT, _FLOAT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_SCALARS = {
    _NULL: re.compile(r"(?:~|null|Null|NULL|)\Z"),
    _BOOL: re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    _INT: re.compile(r"[-+]?[0-9]+\Z"),
    _FLOAT: re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars and a limit on nesting."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, _pattern, None)


class _Builder:
    """Turns PyYAML's nodes into plain values, and notes where each was typed."""

    def __init__(self, source: str, has_lines: bool):
        self.source, self.has_lines = source, has_lines
        self.tree = Tree(None)
        self.count = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise self.error(node, f"more than {MAX_VALUES:,} values with all aliases (*name) expanded, or without end")
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            values = []
            for index, item in enumerate(node.value):
                self.tree.places[*path, index] = _place(item.start_mark, self.source, self.has_lines)
                values.append(self.build(item, (*path, index)))
            return values
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        raise self.error(node, f"tag {show(node.tag)} is not supported; leave the tag out")

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                text = show(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise self.error(key_node, f"a key must be text, not {text}; put it in quotes, or check the brackets")
            if key in values:
                first = self.tree.places[*path, key]
                where = f" (first in line {first.line}, column {first.column})" if self.has_lines else ""
                raise self.error(key_node, f"key {show(key)} is given twice{where}; keep one of them")
            self.tree.places[*path, key] = _place(key_node.start_mark, self.source, self.has_lines)
            values[key] = self.build(value_node, (*path, key))
        return values

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.tag == _STR:
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise self.error(node, f"{show(text)} has a character that no name or path can have")
            return text
        if node.tag not in _SCALARS:
            raise self.error(node, f"tag {show(node.tag)} is not supported; leave the tag out")
        if not _SCALARS[node.tag].match(text):
            raise self.error(node, f"{show(text)} does not fit its tag {show(node.tag)}; leave the tag out")
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text.lower() == "true"
        if len(text) > MAX_DIGITS:
            raise self.error(node, f"number {show(text)} has more than {MAX_DIGITS} characters")
        if node.tag == _INT:
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def error(self, node: yaml.Node, problem: str) -> UserError:
        return UserError(f"{_place(node.start_mark, self.source, self.has_lines)}: {problem}")


# Overrides ----------------------------------------------------------------------------------------------------------


def override(tree: Tree, text: str, named: tuple[str, ...] = ()) -> Tree:
    """The tree with one `dotted.key=YAML value` put in; what it sets has the override's text as its place.

    named lists the top-level keys whose value may be a bare name: there `data.root=x` turns `data: mnist`
    into `data: {name: mnist, root: x}`.
    """
    place = Place(0, 0, f"--set {show_key(text)}")
    key, equals, value_text = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UserError(f"{place}: write it as key=value, with dots between nested keys, as in prune.ratios=[0,0.5]")
    given = parse(value_text, place.source, has_lines=False)

    places = {old: at for old, at in tree.places.items() if old[: len(path)] != path}
    root = dict(tree.value)
    section = root
    for depth, part in enumerate(path[:-1], start=1):
        inner = section.get(part)
        if inner is None:
            inner = {}
            places[path[:depth]] = place
        elif isinstance(inner, str) and depth == 1 and part in named:
            inner = {"name": inner}
        elif not isinstance(inner, dict):
            name = show_key(".".join(path[:depth]))
            value = show(inner)
            raise UserError(f"{place}: {name} is {value}, which has no key {show(path[depth])}; set {name} as a whole")
        section[part] = dict(inner)
        section = section[part]
    section[path[-1]] = given.value
    places |= {path + inner: at for inner, at in given.places.items()}
    return Tree(root, places)

"""The rooms of the package: arrows between them point one way, from the top of a run to its ground."""

import ast
import tomllib
from pathlib import Path

import pytest

import qprune

PACKAGE = Path(qprune.__file__).parent
FLAT = {
    "__init__.py",
    "__main__.py",
    "cli.py",
    "library.py",
    "recipe.py",
    "stopping.py",
    "training.py",
    "README.md",
    "py.typed",
}  # the only ones beside the folders
FLOORS = (  # a room imports from floors below its own alone
    {"registry", "stopping"},
    {"storage", "recipe"},
    {"data", "networks", "analysis"},
    {"cost", "training"},
    {"precision"},
    {"pruning"},
    {"stages", "settings", "library"},
    {"methods", "executors", "deploy"},
    {"report"},
    {"sweep"},
    {"ranking"},
    {"cli"},
    {"__main__"},
)
ROOMS = set().union(*FLOORS)


def imported_rooms(file: Path) -> set[str]:
    """The rooms that a module imports from, wherever in it that stands; the package's face is none."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide an arrow"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts = [name.split(".") for name in names]
        found |= {room for package, room, *_ in (part for part in parts if len(part) > 1) if package == "qprune"}
    return found & ROOMS


def modules() -> list[tuple[str, Path]]:
    """(room, file) of every module of a room."""
    files = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    return [(file.relative_to(PACKAGE).parts[0].removesuffix(".py"), file) for file in files]


def test_nothing_lies_flat_but_the_command_the_library_and_the_training_loop():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert files == FLAT
    assert folders | {"__main__", "cli", "library", "recipe", "stopping", "training"} == ROOMS and len(ROOMS) == 22


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_arrows_between_rooms_point_down(room):
    """So that there is no circle, lazy imports included, and nothing below the sweep knows of it."""
    (floor,) = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    below = set().union(*FLOORS[:floor])
    for own, file in modules():
        if own == room:
            assert imported_rooms(file) - {room} <= below, file


def test_places_of_registries_point_down_too():
    """A registry names what it loads by text, which an import would not show."""
    for room, file in modules():
        (floor,) = [number for number, rooms in enumerate(FLOORS) if room in rooms]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("qprune."):
                named = node.value.removeprefix("qprune.").partition(".")[0].partition(":")[0]
                if named in ROOMS - {room} and "." in node.value.removeprefix("qprune."):
                    above = {other for rooms in FLOORS[floor:] for other in rooms}
                    assert named not in above or (room, named) == ("settings", "methods"), (file, node.value)


def test_an_arrow_is_seen_wherever_it_stands(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "def f():\n    from qprune.sweep.plan import make_plan\n    import qprune.cost.count\n    from qprune import cli\n"
    )
    assert imported_rooms(file) == {"sweep", "cost", "cli"}


def test_torch_ao_stands_behind_one_file():
    """It is deprecated: a torch without it must cost one precision, not an import."""
    users = []
    for _, file in modules():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith(("torch.ao", "torch.quantization")) for name in names):
                users.append(str(file.relative_to(PACKAGE)))
    assert set(users) == {"networks/torch_ao.py"}


def test_every_dependency_has_a_lower_bound():
    """The lowest of all together is an environment that can be made and tried (tests/environments.py)."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    named = [*project["dependencies"], *(one for extra in extras for one in extra if not one.startswith("qprune["))]
    assert len(named) > 25 and not [one for one in named if ">=" not in one]

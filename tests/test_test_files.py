"""Of the tests themselves."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_test_file_imports_another():
    """What two of them need stands in tests/helpers."""
    files = list(TESTS.rglob("test_*.py"))
    names = {file.stem for file in files}
    found = set()
    for file in [*files, *(TESTS / "helpers").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or "", *(alias.name for alias in node.names)]
            else:
                imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {(file.name, name) for name in imported if name.split(".")[-1] in names}
    assert files and not found


def test_no_two_test_files_have_one_name():
    """pytest imports them by it."""
    names = [file.name for file in TESTS.rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_helpers_are_found_without_the_folder_above_them():
    """pytest's `pythonpath` has tests/ and tests/helpers; the folder that holds them is on the path by chance alone."""
    wrong = set()
    for file in [*TESTS.rglob("test_*.py"), *(TESTS / "helpers").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong |= {(file.name, name) for name in names if name.split(".")[0] == "tests"}
    assert not wrong

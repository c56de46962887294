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

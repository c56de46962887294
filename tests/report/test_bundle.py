"""The page's modules as one script."""

import re
from pathlib import Path

import pytest

from qprune.report.bundle import bundle

PAGE = Path(__file__).parents[2] / "qprune" / "report" / "page"


def modules(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_modules_come_after_what_they_import(tmp_path):
    folder = modules(
        tmp_path,
        main='import { one } from "./one.js";\nimport {\n  two,\n} from "./two.js";\n\none(two);\n',
        one='// uses two\nimport { two } from "./two.js";\nexport async function one() {\n  return two;\n}\n',
        two='const own = "export";\nexport const two = own;\n',
        other="export const unused = 1;\n",
    )
    inside = bundle("main", folder).removeprefix('"use strict";\n(async () => {\n').removesuffix("})();")
    assert [line for line in inside.splitlines() if line] == [
        'const own = "export";', "const two = own;", "// uses two", "async function one() {", "  return two;", "}", "one(two);",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            {"main": 'import { a } from "./b.js";\n', "b": "export const b = 1;\n"},
            "main.js imports a, which b.js doesn't",
        ),
        ({"main": 'import { b } from "./b.js";\n', "b": "const b = 1;\n"}, "main.js imports b, which b.js doesn't"),
        (
            {"main": 'import { b } from "./b.js";\nfunction own() {}\n', "b": "export const b = 1, c = 2;\nlet own;\n"},
            "b.js and main.js both declare own",
        ),
        ({"main": "const [a, b] = [1, 2];\n"}, "main.js takes an object or array apart"),
        (
            {
                "main": 'import { b } from "./b.js";\n',
                "b": 'import { c } from "./c.js";\nexport const b = 1;\n',
                "c": 'import { b } from "./b.js";\nexport const c = 1;\n',
            },
            "import each other: b -> c -> b",
        ),
    ],
)
def test_what_can_not_be_one_script_is_refused(tmp_path, texts, said):
    with pytest.raises(ValueError, match=said):
        bundle("main", modules(tmp_path, **texts))


def test_every_module_of_the_page_is_in_one_of_the_scripts():
    """With its lines short enough, and nothing of an import or an export left."""
    scripts = bundle("main") + bundle("rank")
    for module in PAGE.glob("*.js"):
        text = module.read_text()
        assert text.splitlines()[0] in scripts, module
        assert max(map(len, text.splitlines())) <= 120, module
    assert not re.search(r"^\s*(import|export)\b", scripts, re.MULTILINE)

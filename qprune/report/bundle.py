"""The page's modules -> one script: plain concatenation in the order of their imports.

A module imports names from files beside it (`import { a, b } from "./file.js";`) and declares at its top level, without
indentation, what it exports. All names end up in one scope, so that no two modules may declare the same one.
"""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.M)
SEVERAL = re.compile(r"^(?:export )?(?:const|let) [\[{]", re.M)
DECLARATION = re.compile(r"^(export )?(?:async )?(?:const|let|function|class) (\w+)", re.M)


def bundle(entry: str, folder: Traversable | None = None) -> str:
    """The script of a module and of all that it imports, each once and before those that import it.

    folder: of the modules, the page's own by default. Raises ValueError for modules that import each other in a circle,
    for a name that two declare, for one that isn't declared by itself, and for an import of what its module doesn't
    export.
    """
    folder = folder or files("qprune.report") / "page"
    exported: dict[str, set[str]] = {}  # by module, in the order of the script
    declared: dict[str, str] = {}  # name -> module
    parts = []

    def add(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            raise ValueError(f"modules import each other: {' -> '.join((*chain[chain.index(name) :], name))}")
        if name in exported:
            return
        text = (folder / f"{name}.js").read_text()
        for names, source in IMPORT.findall(text):
            add(source, (*chain, name))
            for wanted in filter(None, map(str.strip, names.split(","))):
                if wanted not in exported[source]:
                    raise ValueError(f"{name}.js imports {wanted}, which {source}.js doesn't export")
        code = IMPORT.sub("", text)
        if SEVERAL.search(code):
            raise ValueError(f"{name}.js takes an object or array apart at its top level; declare each name by itself")
        found = DECLARATION.findall(code)
        for _, one in found:
            if one in declared:
                raise ValueError(f"{declared[one]}.js and {name}.js both declare {one}")
            declared[one] = name
        exported[name] = {one for export, one in found if export}
        parts.append(re.sub(r"^export ", "", code, flags=re.M))

    add(entry, ())
    return '"use strict";\n(async () => {\n' + "\n".join(parts) + "})();"

"""A cell -> a file that is put in place only after its own runtime has run it over the whole test split."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from qprune.deploy.cells import DeployedCell
from qprune.deploy.check import Parity, compare, logits_of
from qprune.deploy.formats import Format
from qprune.registry.errors import UserError
from qprune.storage.durable import write_whole


@dataclass(frozen=True)
class Exported:
    """Where the file lies (with `.unverified` behind its name where it failed its check), its bytes, and the check."""

    path: Path
    size: int
    parity: Parity


def export_cell(cell: DeployedCell, form: Format, output: Path) -> Exported:
    """Write a cell's network in a format, check it, and put it in place at once.

    The file is written and checked in a temporary folder: nothing appears at `output` before. Agreement under
    check.REQUIRED_AGREEMENT leaves it as `<output>.unverified`. Raises UserError where the exporter can't follow the
    network, or the runtime can't load the file.
    """
    expected = logits_of(cell.network, cell.test)
    with tempfile.TemporaryDirectory(prefix="qprune-export-") as folder:
        module = form.load()
        draft = Path(folder) / f"network{module.SUFFIX}"
        try:
            module.write(cell, draft)
            run = module.load(draft, cell)
            found = logits_of(run, cell.test)
        except UserError:
            raise
        except Exception as error:  # exporters and runtimes raise whatever they like on an operator they don't know
            raise UserError(
                f"{cell.name} as {form.name}: {type(error).__name__}: {_first_line(error)}. "
                "The network has an operation that this format doesn't bear; --format torch holds every network"
            ) from error
        parity = compare(found, expected, cell.test.labels)
        path = output if parity.holds else unverified(output)
        _place(draft, path)
    if parity.holds:
        unverified(output).unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, parity)


def unverified(output: Path) -> Path:
    """The name of a file that failed its check."""
    return output.with_name(output.name + ".unverified")


def _place(draft: Path, path: Path) -> None:
    try:
        write_whole(path, draft.read_bytes())
    except OSError as error:
        raise UserError(f"--output {path}: can't be written: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:300] if lines else "no message"

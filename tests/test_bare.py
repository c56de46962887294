"""qprune where nothing but its own dependencies is installed, as the README's first command leaves it."""

import pytest
from bare import link, needed, run_bare
from tiny_sweep import SMALL, write_tiny


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return link(tmp_path_factory.mktemp("bare") / "packages", "qprune")


def test_the_place_is_bare(packages):
    assert {"torch[]", "brevitas[]"} <= set(needed("qprune")) and not {"pytest[]", "onnx[]"} & set(needed("qprune"))
    found = run_bare(packages, "-c", "import pytest")
    assert "ModuleNotFoundError" in found.stderr


def test_every_module_is_imported_or_names_the_extra(packages):
    """No module of qprune needs at import what only the tests install."""
    walk = (
        "import importlib, pkgutil, qprune\n"
        "for found in pkgutil.walk_packages(qprune.__path__, 'qprune.'):\n"
        "    try:\n"
        "        importlib.import_module(found.name)\n"
        "    except ImportError as error:\n"
        "        print(found.name, error.name)\n"
    )
    done = run_bare(packages, "-c", walk)
    assert done.returncode == 0, done.stderr
    missing = {line.split()[1].split(".")[0] for line in done.stdout.splitlines()}
    assert missing <= {"onnx", "onnxruntime", "qonnx", "ray"}, done.stdout


def test_a_sweep_runs_and_an_export_names_its_extra(packages, tmp_path):
    file = write_tiny(tmp_path)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    done = run_bare(packages, "-m", "qprune", "sweep", file, "--out", tmp_path / "out", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("report.html")
    record = next(tmp_path.rglob("cells/*int4*r0.50*.json"))
    refused = run_bare(packages, "-m", "qprune", "export", record.parents[1], record.stem, "--format", "onnx")
    assert refused.returncode != 0 and "qprune[onnx]" in refused.stderr and "Traceback" not in refused.stderr

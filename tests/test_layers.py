"""The layers of the package: who may import whom, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import esscher

ROOT = Path(esscher.__file__).parent

# A module imports only from layers above its own; siblings in a layer never import each other.
LAYERS = [
    {"_core"},
    {"groups", "atomic", "warning"},
    {"ragged"},
    {"samples", "token_scores"},
    {"target", "lm", "faults"},
    {"estimate"},
    {"weights"},
    {"inference"},
    {"divergence", "diversity"},
    {"frontier", "mismatch"},
    {"evaluate"},
    {"compare"},
    {"trend"},
    {"report", "files"},
    {"v1"},
    {"wire"},
    {"client", "server"},
    {"demo", "offline"},
    {"train", "integrations"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Who may import heavy or optional packages.
ALLOWED = {
    "torch": {"lm.transformers", "train", "integrations.trl", "integrations.trl_judge"},
    "transformers": {"lm.transformers", "integrations.trl"},
    "trl": {"integrations.trl"},
    "peft": {"lm.transformers", "train"},
    "grpc": {"v1", "wire", "client", "server"},
    "google": {"v1", "wire", "client", "server"},
    "pyarrow": {"files"},
    "altair": {"report"},
    "typer": {"cli"},
    "pickle": set(),
}

MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Absolute names of all that a file imports, inside functions too; each `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_layers_above(path):
    here = module_name(path).split(".")[0]
    for name in imports(path):
        if name.startswith("esscher."):
            there = name.split(".")[1]
            allowed = there == here or there.startswith("__version__") or LEVEL[there] < LEVEL[here]
            assert allowed, f"{module_name(path)} imports {name}, which is not above it"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_heavy_packages_are_imported_in_one_place(path):
    here = module_name(path)
    for name in imports(path):
        places = ALLOWED.get(name.split(".")[0])
        allowed = places is None or any(here == place or here.startswith(place + ".") for place in places)
        assert allowed, f"{here} imports {name}, which only {places} may"


def test_every_module_has_a_layer():
    assert {module_name(path).split(".")[0] for path in MODULES} <= set(LEVEL)


def test_importing_esscher_imports_nothing_heavy():
    code = (
        "import sys, esscher; print([m for m in ('torch', 'grpc', 'pyarrow', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_client_imports_nothing_of_the_server():
    server = ("esscher.server", "torch", "prometheus_client")
    code = f"import sys, esscher.client; print([m for m in sys.modules if m.startswith({server})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_public_can_be_imported():
    for name in esscher.__all__:
        assert getattr(esscher, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = esscher.nothing

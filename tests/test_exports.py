"""What `avm` and its packages export is there, sorted, documented, and cheap to import."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import avm

PACKAGES = ["avm", *(f"avm.{m.name}" for m in pkgutil.iter_modules(avm.__path__) if m.ispkg)]

STANDS_ON = {
    "attr",
    "attrs",
    "blake3",
    "cython_runtime",
    "msgpack",
    "msgspec",
    "typing_extensions",
    "uvloop",
    "zstandard",
}
"""The only packages of others that `import avm` may load."""


def exported(package: str) -> tuple[ModuleType, list[str]]:
    module = importlib.import_module(package)
    return module, list(getattr(module, "__all__", []))


def fresh_python(code: str) -> str:
    """Run code in a Python of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_names_what_is_there(package: str) -> None:
    module, names = exported(package)

    missing = [name for name in names if not hasattr(module, name)]

    assert not missing
    assert len(names) == len(set(names))
    # As ruff sorts them: constants, then classes, then functions.
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_in_its_all(package: str) -> None:
    module, names = exported(package)

    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }

    assert public <= set(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_class_and_function_has_a_docstring(package: str) -> None:
    module, names = exported(package)

    bare = [
        name
        for name in names
        if (inspect.isclass(value := getattr(module, name)) or inspect.isroutine(value))
        and not inspect.getdoc(value)
    ]

    assert inspect.getdoc(module)
    assert not bare


def test_the_names_of_avm_are_the_small_set_of_the_style_guide() -> None:
    assert len(avm.__all__) <= 40
    wanted = {
        "VM",
        "Actor",
        "Agent",
        "ChildSpec",
        "Pid",
        "Ref",
        "Request",
        "child",
        "event",
        "on",
        "pipeline",
    }
    assert wanted | {"run", "supervisor", "tool"} <= set(avm.__all__)


@pytest.mark.slow
def test_importing_avm_loads_nothing_optional() -> None:
    """That keeps the import short: 120 ms is the target, measured with the benchmarks."""
    loaded = fresh_python("import sys, avm; print(*sys.modules)").split()

    tops = {name.split(".")[0] for name in loaded}
    foreign = {name for name in tops - sys.stdlib_module_names if not name.startswith("_")}
    assert foreign - {"avm"} <= STANDS_ON
    assert not [name for name in loaded if name.startswith(("avm.cli", "avm.testing", "avm.cluster"))]


@pytest.mark.slow
def test_every_package_can_be_imported_alone() -> None:
    """No package depends on another having been imported first."""
    for package in PACKAGES:
        if package != "avm.testing":
            fresh_python(f"import {package}")


def test_avm_knows_the_version_it_was_installed_as() -> None:
    assert avm.__version__ == importlib.metadata.version("avm-runtime")

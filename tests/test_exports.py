"""The public face: what is exported, what it costs, and that every public name is described."""

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trioflow

MODULES = [
    module.name
    for module in pkgutil.walk_packages(trioflow.__path__, "trioflow.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_a_docstring_and_a_public_one_says_what_it_exports(name):
    module = importlib.import_module(name)
    assert module.__doc__, name
    if any(part.startswith("_") for part in name.split(".")):
        return  # a private module promises nothing
    assert isinstance(module.__all__, tuple)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported)
    defined = {
        member
        for member, value in vars(module).items()
        if not member.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    assert defined <= set(module.__all__)


def test_the_public_names_are_exported_sorted_and_described():
    assert list(trioflow.__all__) == sorted(trioflow.__all__)
    for name in trioflow.__all__:
        value = getattr(trioflow, name)
        assert inspect.getdoc(value), name
        if inspect.isclass(value) and value.__module__.startswith("trioflow"):
            for member, method in vars(value).items():
                if not member.startswith("_") and inspect.isfunction(method):
                    assert inspect.getdoc(method), f"{name}.{member}"


def test_the_reference_has_every_public_name():
    pages = (Path(__file__).parents[1] / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    shown = re.findall(r"auto\w+:: trioflow\.(\w+)(?:\(\))?$", text, re.MULTILINE)
    assert sorted(set(trioflow.__all__) - set(shown)) == []
    assert sorted(name for name in shown if not hasattr(trioflow, name)) == []
    assert len(shown) == len(set(shown))


def test_every_public_coroutine_says_what_a_cancellation_does():
    for name in trioflow.__all__:
        value = getattr(trioflow, name)
        functions = [value] if not inspect.isclass(value) else list(vars(value).values())
        for function in functions:
            if inspect.iscoroutinefunction(function):
                assert "Cancellation:" in (inspect.getdoc(function) or ""), f"{name}: {function}"


def test_the_version_is_that_of_the_installed_package(tmp_path, monkeypatch):
    metadata = tmp_path / "trioflow-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: trioflow\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert trioflow.__version__ == "9.8.7"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(AttributeError, match="trioflow is not installed: its version is unknown"):
        trioflow.__version__  # noqa: B018 - reading it is what is tested
    assert not hasattr(trioflow, "__version__")


def test_a_name_that_is_not_there_is_an_attribute_error_as_in_any_module():
    with pytest.raises(AttributeError, match="module 'trioflow' has no attribute 'process_paralel'"):
        trioflow.process_paralel  # noqa: B018 - reading it is what is tested


def test_importing_is_light():
    code = "import sys; before = set(sys.modules); import trioflow; print(*(sys.modules.keys() - before))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "trio" in loaded
    heavy = {"loguru", "tenacity", "trio_util", "apsw", "rich", "yaml", "opentelemetry", "distributed", "cyclopts"}
    assert loaded & {*heavy, "importlib.metadata"} == set()

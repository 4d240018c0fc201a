"""`trioflow graph`: draws and validates a graph in a user's module.

The module is imported as Python would import it from the current directory. What it prints on import goes to
standard error, to keep the output clean.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from trioflow._text import describe_error, list_known, one_line, quote, show
from trioflow.cli._printing import CommandError, print_json, say
from trioflow.errors import ConfigError, GraphError
from trioflow.graph import StateGraph

_TARGET = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def mermaid(graph: str) -> int:
    """Print a graph as a Mermaid flowchart; the graph need not be valid.

    Args:
        graph: the module and the name of the graph in it, such as package.module:graph.
    """
    say(load_graph(graph).to_mermaid().rstrip("\n"))
    return 0


def validate(graph: str, *, json: bool = False) -> int:
    """Print every fault that keeps a graph from running; the exit status is 1 if there is one.

    Args:
        graph: the module and the name of the graph in it, such as package.module:graph.
        json: print JSON instead of lines.
    """
    loaded = load_graph(graph)
    faults: list[str] = []
    try:
        loaded.validate()
    except GraphError as error:
        faults += error.faults
    if json:
        print_json({"graph": loaded.name, "faults": faults})
    elif not faults:
        say(f"the graph {quote(loaded.name)} has no faults")
    else:
        say(f"the graph {quote(loaded.name)} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:")
        for fault in faults:
            say(f"- {fault}")
    return 1 if faults else 0


def load_graph(target: str) -> StateGraph[Any]:
    """Return the graph that `target` names.

    Raises:
        ConfigError: `target` is malformed, or does not name a graph.
        CommandError: there is no such module, it cannot be imported, or has no such name.
    """
    found = load(target)
    if not isinstance(found, StateGraph):
        raise ConfigError(f"{quote(target)} must be a StateGraph, got {show(found)}")
    return found


def load(target: str) -> object:
    """Return the object that `target` names.

    Raises:
        ConfigError: `target` is malformed.
        CommandError: there is no such module, it cannot be imported, or has no such name.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise ConfigError.refusing("graph", target, "a module and a name in it, such as package.module:graph")
    found: object = _import(match[1])
    for name in match[2].split("."):
        if not hasattr(found, name):
            known = [known for known in getattr(found, "__dict__", ()) if not known.startswith("_")]
            raise CommandError(f"{quote(match[1])} has no {quote(name)} {list_known(name, known)}")
        found = getattr(found, name)
    return found


def _import(module: str) -> object:
    try:
        with _from_here(), redirect_stdout(sys.stderr):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise CommandError(f"there is no module {quote(error.name)}, here or installed") from error
        raise _import_failed(module, error) from error
    except (Exception, SystemExit) as error:  # a module may do anything on import
        raise _import_failed(module, error) from error


def _import_failed(module: str, error: BaseException) -> CommandError:
    what = f"{type(error).__name__}: {one_line(describe_error(error))}"
    return CommandError(f"importing {quote(module)} failed: {what}")


@contextmanager
def _from_here() -> Iterator[None]:
    """Add the current directory to the import path, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)

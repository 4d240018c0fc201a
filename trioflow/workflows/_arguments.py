"""Argument checks shared by the public functions of this package; they run before any work starts."""

from collections.abc import AsyncIterable, Iterable

from trioflow.config.checks import check_text
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.observers.registry import check_observer, get_observer


def check_items(items: object) -> None:
    """Raise if `items` is not iterable."""
    if not isinstance(items, Iterable | AsyncIterable):
        raise ConfigError.refusing("items", items, "iterable or async iterable")


def choose_observer(given: Observer | None, name: str, run_id: str | None = None) -> Observer:
    """Return the observer `given`, or else the one registered under `name`; raise if `run_id` is invalid."""
    if run_id is not None:
        check_text("run_id", run_id, "a non-empty string or None")
    if given is None:
        return get_observer(name)
    check_observer("observer", given)
    return given

"""What the public functions of this room check alike, before any work starts."""

from collections.abc import AsyncIterable, Iterable

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.registry import get_checkpoint_store
from trioflow.checkpoint.session import check_run_id, choose_store
from trioflow.config import CheckpointConfig
from trioflow.config.checks import check_text
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.observers.registry import check_observer, get_observer

__all__ = ("check_items", "choose_observer", "choose_store_for")


def check_items(items: object) -> None:
    """Refuse what cannot be iterated over."""
    if not isinstance(items, Iterable | AsyncIterable):
        raise ConfigError.refusing("items", items, "iterable or async iterable")


def choose_observer(given: Observer | None, name: str, run_id: str | None = None) -> Observer:
    """Return the observer `given`, else the one of this `name`; refuse a `run_id` that is no id."""
    if run_id is not None:
        check_text("run_id", run_id, "a non-empty string or None")
    observer = get_observer(name) if given is None else given
    check_observer("observer", observer)
    return observer


def choose_store_for(
    run_id: str | None, given: CheckpointStore | None, config: CheckpointConfig | None, *, always: bool = False
) -> CheckpointStore | str | None:
    """Return the store to keep the run in, None where it is not kept; refuse a store or an id that does not fit.

    Args:
        run_id: the id that the caller gave; a run without one is not kept.
        given: the caller's store.
        config: which store, else.
        always: whether the config's `interval` plays no part.
    """
    if given is not None and run_id is None:
        raise ConfigError.refusing("run_id", run_id, "an id to find the run again, where a store is given")
    if always and given is None and config is not None:
        get_checkpoint_store(config.store)
        store: CheckpointStore | str | None = config.store
    else:
        store = choose_store(given, config)
    if store is None or run_id is None:
        return None
    check_run_id(run_id)
    return store

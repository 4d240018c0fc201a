"""Stores by name and by URL, for the `store` field of a config."""

from typing import Any, Protocol

from trioflow._text import list_known, show, without_secrets
from trioflow.checkpoint.memory import MemoryStore
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.config.checks import check_text
from trioflow.errors import ConfigError

__all__ = ("check_store", "get_checkpoint_store", "is_url", "open_to_look", "register_checkpoint_store")

_METHODS = ("claim", "save", "load", "history", "list_runs", "delete", "save_items", "load_items", "aclose")


def get_checkpoint_store(name_or_url: str) -> CheckpointStore:
    """Return the store registered under a name, or a new one for a URL such as `sqlite:///runs.db`.

    `sqlite:///` is followed by the path of the file: a relative one, or, with a fourth slash, an absolute one. A
    `postgresql://` URL is libpq's: `postgresql://user@host:5432/database?sslmode=verify-full`. The file or
    database is opened at first use; close it with `aclose`. Never blocks.

    Raises:
        ConfigError: there is no such store; the message lists the known ones.
        ImportError: the store's driver is not installed; the message names the extra.
    """
    check_text("store", name_or_url, "the name or URL of a checkpoint store")
    if is_url(name_or_url):
        scheme, _, rest = name_or_url.partition("://")
        opener = _schemes.get(scheme)
        if opener is None or (scheme == "sqlite" and (not rest.startswith("/") or len(rest) == 1)):
            allowed = "a URL such as sqlite:///runs.db " + list_known(scheme, _schemes)
            raise ConfigError.refusing("store", without_secrets(name_or_url), allowed)
        return opener(name_or_url, read_only=False)
    if name_or_url not in _stores:
        known = list_known(name_or_url, _stores)
        allowed = f"the name of a registered store {known} or a URL such as sqlite:///runs.db"
        raise ConfigError.refusing("store", name_or_url, allowed)
    return _stores[name_or_url]


def open_to_look(url: str) -> CheckpointStore:
    """Return the store of a URL, read-only if it supports that.

    Raises:
        ConfigError: there is no such store.
    """
    store = get_checkpoint_store(url)
    opener = _schemes.get(url.partition("://")[0]) if is_url(url) else None
    return store if opener is None else opener(url, read_only=True)


def register_checkpoint_store(name: str, store: CheckpointStore) -> None:
    """Register `store` under `name`, replacing an earlier one of that name; the caller closes it.

    Raises:
        ConfigError: `name` is empty or looks like a URL, or `store` is not a store.
    """
    check_text("name", name)
    if is_url(name):
        raise ConfigError.refusing("name", name, "a name without ://")
    check_store("store", store)
    _stores[name] = store


def check_store(field: str, store: Any) -> None:
    """Require a store."""
    missing = [method for method in _METHODS if not callable(getattr(store, method, None))]
    if missing or isinstance(store, type):
        lacking = f"; {show(type(store).__name__)} has no {missing[0]}" if missing else ""
        if isinstance(store, str):
            lacking = "; get_checkpoint_store returns the one of a name or URL, and CheckpointConfig takes either"
        raise ConfigError.refusing(field, store, f"a CheckpointStore, or None{lacking}")


def is_url(text: str) -> bool:
    """Whether `text` is a URL, not a name."""
    return "://" in text


def _open_sqlite(url: str, *, read_only: bool) -> CheckpointStore:
    from trioflow.checkpoint.sqlite import SqliteStore  # noqa: PLC0415 - apsw is loaded only if used

    return SqliteStore(url.removeprefix("sqlite:///"), read_only=read_only)


def _open_postgres(url: str, *, read_only: bool) -> CheckpointStore:
    from trioflow.checkpoint.postgres import PostgresStore  # noqa: PLC0415 - the driver comes with an extra

    return PostgresStore(url, read_only=read_only)


class _Opener(Protocol):
    """Creates a store from a URL."""

    def __call__(self, url: str, *, read_only: bool) -> CheckpointStore: ...


_stores: dict[str, CheckpointStore] = {"memory": MemoryStore()}
_schemes: dict[str, _Opener] = {"sqlite": _open_sqlite, "postgresql": _open_postgres}

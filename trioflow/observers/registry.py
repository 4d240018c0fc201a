"""Observers by name, for the `observer` field of a config.

A name stands for a factory that runs on first use; the observers that ship import their libraries only then.
"""

from collections.abc import Callable

from trioflow.config.checks import check_choice, check_text, is_async
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.observers.logging import LoggingObserver
from trioflow.observers.loguru import LoguruObserver
from trioflow.observers.noop import NoopObserver

__all__ = ("check_observer", "get_observer", "register_observer")


def get_observer(name: str) -> Observer:
    """Return the observer registered under `name`.

    Raises:
        ConfigError: there is none; the message lists the known names.
    """
    check_choice("observer", name, sorted({*_factories, *_observers}))
    if name not in _observers:
        _observers[name] = _factories[name]()
    return _observers[name]


def register_observer(name: str, observer: Observer) -> None:
    """Register `observer` under `name`, replacing an earlier one of that name.

    Raises:
        ConfigError: `name` is empty, or `observer` has no plain method `on_event`.
    """
    check_text("name", name)
    check_observer("observer", observer)
    _observers[name] = observer


def check_observer(field: str, observer: object) -> None:
    """Require an observer."""
    on_event = getattr(observer, "on_event", None)
    if isinstance(observer, type) or not callable(on_event):
        raise ConfigError.refusing(field, observer, "an observer: an object with a method on_event(event)")
    if is_async(on_event):
        raise ConfigError.refusing(field, observer, "an observer whose on_event is a plain method, not async")


_factories: dict[str, Callable[[], Observer]] = {
    "logging": LoggingObserver,
    "loguru": LoguruObserver,
    "noop": NoopObserver,
}
_observers: dict[str, Observer] = {}

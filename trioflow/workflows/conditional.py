"""One call chosen by a predicate: it names a route, and the route's handler gives the next state."""

from typing import TypeVar

from trioflow._runtime.emitter import Emitter
from trioflow.config import ConditionalConfig
from trioflow.config.checks import check_in_trio, check_instance
from trioflow.events import Observer
from trioflow.workflows._arguments import choose_observer
from trioflow.workflows._routing import Chooser, Routes, route_with

__all__ = ("Routes", "process_conditional")

S = TypeVar("S")

_DEFAULT = ConditionalConfig()


async def process_conditional(
    state: S,
    predicate: Chooser[S],
    routes: Routes[S],
    *,
    config: ConditionalConfig = _DEFAULT,
    observer: Observer | None = None,
) -> S:
    """Ask `predicate` for a route, and return what its handler makes of `state`.

    Args:
        state: what the predicate and the handler are given.
        predicate: a function of the state, plain or async, that returns a route's name.
        routes: the handlers by name.
        config: who hears of it.
        observer: who hears of it; None takes the one that `config` names.

    Raises:
        ConfigError: an argument cannot work; nothing was started.
        ConditionalError: the predicate raised (`route` is None), there is no such route (from a `LookupError`
            that names those there are), or the handler raised (from what it raised).
        BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from the predicate or handler, bare.

    Cancellation: passes through; nothing is kept. A failure that happened before comes out instead.
    """
    check_in_trio()
    check_instance("config", config, ConditionalConfig)
    emitter = Emitter(choose_observer(observer, config.observer), "conditional")
    return await route_with(emitter, state, predicate, routes)

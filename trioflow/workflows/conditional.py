"""One call chosen by a predicate: it names a route, and the route's handler returns the next state."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import awaiting, call_either, call_user
from trioflow._runtime.context import WorkInHand, id_of, task_name, working
from trioflow._runtime.emitter import Emitter, completion_fields
from trioflow._runtime.errors import foreign_cancelled, run_in_child_task
from trioflow._runtime.signals import NotAsyncError
from trioflow._text import list_known, quote, show
from trioflow.config import ConditionalConfig
from trioflow.config.checks import check_async, check_in_trio, check_instance
from trioflow.errors import ConditionalError, ConfigError
from trioflow.events import EventType, Observer
from trioflow.workflows._arguments import choose_observer

__all__ = ("Routes", "process_conditional", "route_with")

S = TypeVar("S")

_DEFAULT = ConditionalConfig()

Chooser = Callable[[S], Hashable | Awaitable[Hashable]]
"""Returns the name of a route: a function of the state, plain or async."""

Handler = Callable[[S], Awaitable[S]]
"""Handles a route: an async function of the state that returns the next state."""


@final
class Routes(Generic[S]):
    """The handlers of the names that a predicate returns.

    Args:
        handlers: an async function of the state for each name.
        default: the handler of all other names; if None, such a name is an error.

    Raises:
        ConfigError: a handler is not async, or there is no handler at all.
    """

    __slots__ = ("default", "handlers")

    handlers: Mapping[Hashable, Handler[S]]
    """The handlers by name; read-only."""
    default: Handler[S] | None
    """The handler of all other names."""

    def __init__(self, handlers: Mapping[Any, Handler[S]], default: Handler[S] | None = None) -> None:
        check_instance("handlers", handlers, Mapping)
        for name, handler in handlers.items():
            check_async(f"handlers[{show(name)}]", handler)
        if default is not None:
            check_async("default", default)
        elif not handlers:
            raise ConfigError.refusing("handlers", handlers, "a mapping with a handler in it, without a default")
        self.handlers = MappingProxyType(dict(handlers))
        self.default = default

    def __repr__(self) -> str:
        names = ", ".join(map(show, self.handlers))
        return f"<Routes {names}{'' if self.default is None else ', and a default'}>"


async def process_conditional(
    state: S,
    predicate: Chooser[S],
    routes: Routes[S],
    *,
    config: ConditionalConfig = _DEFAULT,
    observer: Observer | None = None,
) -> S:
    """Choose a route with `predicate`, and return the state that the route's handler returns.

    Args:
        state: the input of the predicate and of the handler.
        predicate: a function of the state, plain or async, that returns a route's name.
        routes: the handlers by name.
        config: the observer.
        observer: receives its events; None takes the one that `config` names.

    Raises:
        ConfigError: an argument is invalid; nothing was started.
        ConditionalError: the predicate raised (`route` is None), there is no such route (from a `LookupError`
            that names the known routes), or the handler raised (from what it raised).
        BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from the predicate or handler, bare.

    Cancellation: passes through; nothing is stored. If the predicate or the handler had failed before, that error
    is raised instead.
    """
    check_in_trio()
    check_instance("config", config, ConditionalConfig)
    emitter = Emitter(choose_observer(observer, config.observer), "conditional")
    return await route_with(emitter, state, predicate, routes)


async def route_with(
    emitter: Emitter, state: S, predicate: Chooser[S], routes: Routes[S]
) -> S:
    """Do what `process_conditional` does, emitting its events with `emitter`.

    Cancellation: passes through.
    """
    if not callable(predicate):
        raise ConfigError.refusing("predicate", predicate, "a function of the state, plain or async")
    check_instance("routes", routes, Routes)
    return await _Routing(emitter, state, predicate, routes).execute()


@final
class _Routing(Generic[S]):
    """One running decision: the event that its current phase will end with, and the route."""

    def __init__(
        self, emitter: Emitter, state: S, predicate: Chooser[S], routes: Routes[S]
    ) -> None:
        self.attempts = 0
        self.emitter = emitter
        self._state = state
        self._predicate = predicate
        self._routes = routes
        self._part: EventType | None = None
        self._route: Any = None
        self._result: S
        self._started = 0.0

    @property
    def run_id(self) -> str:
        """The run's id."""
        return id_of(self.emitter)

    @property
    def worker(self) -> None:
        """None: a conditional has no workers."""

    def in_hand(self) -> WorkInHand:
        """Return the running predicate or handler, for `current_run`."""
        return WorkInHand(self.run_id, "conditional", 1)

    @trio.lowlevel.enable_ki_protection
    async def execute(self) -> S:
        """Choose the route, and call its handler.

        Cancellation: passes through.
        """
        errors = await run_in_child_task(self._decide, self._foreign, task_name(self.emitter, "conditional"))
        worst = errors.worst()
        if isinstance(worst, NotAsyncError):
            handler = f"the handler of route {quote(self._route)}"
            allowed = "an async function, or a lambda that returns an awaitable"
            errors.replace(ConfigError.refusing(handler, worst.args[0], allowed))
        del worst
        self._emit_end(errors.worst())
        errors.raise_worst()
        return self._result

    @trio.lowlevel.enable_ki_protection
    async def _decide(self) -> None:
        working.set(self)
        await trio.lowlevel.checkpoint()
        self._begin(EventType.ROUTE_EVALUATE)
        try:
            route = await call_either(self._predicate, self._state)
        except Exception as error:
            raise ConditionalError(None, self._state, kind="predicate") from error
        self._route = route
        self._emit_end(None)
        self._begin(EventType.ROUTE_SELECT)
        handler = self._select(route)
        self._emit_end(None)
        self._begin(EventType.ROUTE_EXECUTE)
        try:
            self._result = await call_user(awaiting(handler), self)(self._state)
        except Exception as error:
            raise ConditionalError(route, self._state) from error
        self._emit_end(None)

    def _select(self, route: Hashable) -> Handler[S]:
        try:
            handler = self._routes.handlers.get(route, self._routes.default)
        except Exception as error:
            raise ConditionalError(route, self._state, kind="route") from error
        if handler is None:
            unknown = LookupError(f"unknown route {quote(route)} {list_known(route, self._routes.handlers)}")
            raise ConditionalError(route, self._state, kind="route") from unknown
        return handler

    def _foreign(self, error: BaseException) -> BaseException:
        """Return the error for a stray `Cancelled`: the predicate or the handler failed."""
        asking = self._part is EventType.ROUTE_EVALUATE
        who = "the predicate" if asking else f"the handler of {quote(self._route)}"
        failure = ConditionalError(self._route, self._state, kind="predicate" if asking else "handler")
        failure.__cause__ = foreign_cancelled(error, who)
        return failure

    def _begin(self, part: EventType) -> None:
        self._part = part
        if self.emitter.active:
            self._started = trio.current_time()
        if self.emitter.announces:
            self.emitter.announce(part, {"route": self._route_name()}, {"state": self._state})

    def _route_name(self) -> str | int | None:
        return self._route if isinstance(self._route, str | int | None) else show(self._route)

    def _emit_end(self, error: BaseException | None) -> None:
        """Emit the event at the end of the current phase."""
        part, self._part = self._part, None
        if part is None or not self.emitter.active:
            return
        cause = error.__cause__ if isinstance(error, ConditionalError) else error
        data = {"route": self._route_name(), **completion_fields(cause, self._started)}
        if part is EventType.ROUTE_SELECT:
            data["default"] = error is None and self._route not in self._routes.handlers
        self.emitter.emit(part, data, {"state": self._state})

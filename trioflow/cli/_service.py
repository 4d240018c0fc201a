"""`trioflow serve`, and `trioflow runs submit`, `signal` and `cancel`: the service, and what is sent to it.

`serve` is a process to be started by systemd or in a container, as often as one likes: SIGTERM (or Ctrl-C) lets
the steps in hand end, a second one does not wait for them, and in both cases the runs stay for other processes.
"""

import json as json_
import signal as signals
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
import trio

from trioflow._text import describe_error, one_line, quote, show
from trioflow.checkpoint.registry import get_checkpoint_store, is_url
from trioflow.cli._graphs import load, load_graph
from trioflow.cli._printing import say
from trioflow.cli._runs import check_url
from trioflow.config import ServiceConfig
from trioflow.errors import CheckpointMismatchError, ConfigError, leaves
from trioflow.graph import State, StateGraph
from trioflow.graph.state import state_codec
from trioflow.service import ServiceClient, open_service, service_client
from trioflow.service.client import check_service_store

_ENDS = (signals.SIGINT, signals.SIGTERM)
_DEFAULT = ServiceConfig()


def serve(
    graphs: str,
    *,
    store: str,
    limit: tuple[str, ...] = (),
    max_runs: int = _DEFAULT.max_runs,
    lease: float = _DEFAULT.lease,
    poll: float = _DEFAULT.poll,
    park_after: float = _DEFAULT.park_after,
    drain_timeout: float = _DEFAULT.drain_timeout,
) -> int:
    """Make the runs that are submitted to a store, until SIGTERM or Ctrl-C; as many processes as you like.

    Args:
        graphs: the module and the name in it of a graph, or of several, such as package.module:graphs.
        store: the store's URL, such as sqlite:///runs.db; a file that is not there is made.
        limit: how many runs of a graph all processes make at once, such as review=3. May be given several times.
        max_runs: how many runs this process makes at once.
        lease: seconds after which the runs of a process that is heard of no more go to others.
        poll: seconds between two looks into a store that wakes nobody.
        park_after: seconds after which a run that waits leaves memory.
        drain_timeout: seconds that the end waits for steps in hand.
    """
    if not is_url(store):
        raise ConfigError.refusing("store", store, "a URL such as sqlite:///runs.db")
    config = ServiceConfig(
        max_runs=max_runs,
        limits=dict(_limit(text) for text in limit),
        lease=lease,
        poll=poll,
        park_after=park_after,
        drain_timeout=drain_timeout,
    )
    return trio.run(_serve, _load_graphs(graphs), store, config)


async def _serve(graphs: list[StateGraph[Any]], store: str, config: ServiceConfig) -> int:
    """Serve until a signal comes, and return the exit status.

    Cancellation: the service is left at once; its runs stay in the store.
    """

    async def serve_store(opened: Any) -> None:
        with trio.open_signal_receiver(*_ENDS) as received:
            async with trio.open_nursery() as nursery:
                async with open_service(opened, graphs, config=config) as service:
                    names = ", ".join(graph.name for graph in graphs)
                    say(f"serving {names} from {store} (SIGTERM ends it)")
                    await received.__anext__()
                    say("no more runs are taken; steps in hand end first")
                    service.drain()
                    nursery.start_soon(_cancel_at, received, nursery.cancel_scope)
                nursery.cancel_scope.cancel(reason="the service has ended")

    try:
        await _with_store(store, serve_store)
    except BaseExceptionGroup as group:
        # One thing is done here, so one thing went wrong.
        raise next(leaves(group)) from None
    return 0


async def _cancel_at(received: Any, scope: trio.CancelScope) -> None:
    """Cancel at the next signal.

    Cancellation: passes through.
    """
    await received.__anext__()
    scope.cancel(reason="a second signal came")


def submit(
    graph: str, *, store: str, state: str = "{}", run_id: str | None = None, delay: float = 0.0
) -> int:
    """Submit a run, and print its id.

    Args:
        graph: the graph's name; or package.module:graph, where its state is no State, or to see that it fits.
        store: the store's URL.
        state: the first state, as JSON.
        run_id: the run's id; one is made by default.
        delay: seconds before which it does not begin.
    """
    given = _json("state", state)
    if not isinstance(given, dict) or not all(isinstance(name, str) and name for name in given):
        raise ConfigError.refusing("state", state, "a JSON object")
    graphs = [load_graph(graph)] if ":" in graph else []
    name = graphs[0].name if graphs else graph

    async def ask(client: ServiceClient) -> str:
        first = _state_of(graphs[0], given) if graphs else State(given)
        return await client.submit(name, first, run_id=run_id, delay=delay)

    say(_ask(store, graphs, ask))
    return 0


def signal(run_id: str, name: str, *, store: str, payload: str | None = None) -> int:
    """Send a run a signal; `resume` lets a paused run go on.

    Args:
        run_id: the run.
        name: the signal's name.
        store: the store's URL.
        payload: what comes with it, as JSON.
    """
    given = None if payload is None else _json("payload", payload)
    _ask(store, [], lambda client: client.signal(run_id, name, given))
    say(f"sent {quote(name)} to {quote(run_id)}")
    return 0


def cancel(run_id: str, *, store: str) -> int:
    """Cancel a run that was submitted; one that has ended stays as it is.

    Args:
        run_id: the run.
        store: the store's URL.
    """
    _ask(store, [], lambda client: client.cancel(run_id))
    say(f"asked for the cancellation of {quote(run_id)}")
    return 0


def _ask(
    store: str, graphs: list[StateGraph[Any]], question: Callable[[ServiceClient], Awaitable[Any]]
) -> Any:
    """Return what a client of the store answers."""
    check_url(store)

    async def ask(opened: Any) -> Any:
        return await question(service_client(opened, graphs))

    return trio.run(_with_store, store, ask)


async def _with_store(store: str, use: Callable[[Any], Awaitable[Any]]) -> Any:
    """Open the store, use and close it.

    Cancellation: passes through; the store is closed.
    """
    opened = get_checkpoint_store(store)
    check_service_store(opened)
    try:
        return await use(opened)
    finally:
        with trio.CancelScope(shield=True):
            await opened.aclose()


def _load_graphs(target: str) -> list[StateGraph[Any]]:
    """Return the graphs that `target` names: one, or several in a list, a tuple, or the values of a dict.

    Raises:
        ConfigError: it names something else.
    """
    found = load(target)
    if isinstance(found, StateGraph):
        return [found]
    values = found.values() if isinstance(found, Mapping) else found
    graphs = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else []
    if not graphs or not all(isinstance(graph, StateGraph) for graph in graphs):
        raise ConfigError(f"{quote(target)} must be a StateGraph, or several in a list, got {show(found)}")
    return graphs


def _state_of(graph: StateGraph[Any], given: dict[str, Any]) -> Any:
    try:
        return state_codec(graph._state_type).decode(msgspec.msgpack.encode(given))  # noqa: SLF001 - as the service
    except CheckpointMismatchError as error:
        allowed = f"a {graph._state_type.__name__} as JSON ({error})"  # noqa: SLF001 - the same
        raise ConfigError.refusing("state", given, allowed) from error


def _json(field: str, text: str) -> Any:
    try:
        return json_.loads(text)
    except ValueError as error:
        raise ConfigError.refusing(field, text, f"JSON ({one_line(describe_error(error))})") from error


def _limit(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not (name and equals and number.isdecimal()):
        raise ConfigError.refusing("limit", text, "a graph's name and a number, such as review=3")
    return name, int(number)

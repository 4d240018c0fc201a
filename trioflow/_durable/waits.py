"""Waits that outlive a process: `durable_sleep` and `wait_for_signal`, in the nodes of graphs that are kept.

A wait is kept as an item of its run, with the moment at which it began, under the step, the node and the number of
the wait in this call of the node; so a node that is called again meets its own waits, and those that are over are
over at once. A signal is the store's to give: the same wait is given the same one, whoever asks for it.

Where a service makes the run it sets `parking`, and a wait that takes longer ends the call of the node by
`Parked`: the run leaves memory, and the node is called again when the wait is over.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol, final, runtime_checkable

import msgspec
import trio

from trioflow._durable.steps import KeptSteps, outermost
from trioflow._runtime.context import working
from trioflow._runtime.signals import JournalError, Parked
from trioflow._text import quote
from trioflow.checkpoint._clock import store_time
from trioflow.checkpoint.codec import Codec
from trioflow.checkpoint.service_protocol import ServiceStore
from trioflow.config.checks import check_in_trio, check_number, check_text
from trioflow.errors import CheckpointError, ConfigError

__all__ = ("Parking", "WaitHost", "durable_sleep", "not_here", "parking", "payload_codec", "wait_for_signal")

_POLL = 0.5
"""Seconds between two looks for a signal where no service says how often."""

payload_codec: Codec[Any] = Codec(Any, what="the payload of a signal")


@runtime_checkable
class WaitHost(Protocol):
    """A run whose nodes may wait."""

    def begin_wait(self) -> tuple[KeptSteps[Any], str]:
        """Return what keeps the run, and what the wait is known by.

        Raises:
            RuntimeError: this is not the node itself, or the run is not kept.
        """
        ...


@final
class Parking:
    """Says of one run how long it may wait in memory, and ends its waits when it is to be let go of.

    Attributes:
        run_id: the run.
        park_after: seconds that a wait may take.
        poll: seconds between two looks for a signal.
        is_letting_go: whether no wait is to go on.
    """

    __slots__ = ("_scopes", "is_letting_go", "park_after", "poll", "run_id")

    def __init__(self, run_id: str, park_after: float, poll: float) -> None:
        self.run_id = run_id
        self.park_after = park_after
        self.poll = poll
        self.is_letting_go = False
        self._scopes: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Parking of {self.run_id}: {len(self._scopes)} waits>"

    def let_go(self) -> None:
        """End the waits that are under way, and those that come."""
        self.is_letting_go = True
        for scope in self._scopes:
            scope.cancel(reason="the run is let go of")

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Leave the block at `deadline`, or when the run is to be let go of."""
        scope = trio.CancelScope(deadline=deadline)
        self._scopes.add(scope)
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)


parking: ContextVar[Parking] = ContextVar("trioflow_parking")
"""Set by a service in the task that makes a run."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a wait."""

    began: float
    is_over: bool = False


@final
class _Wait:
    """A wait that has begun, in this process or before it."""

    def __init__(self, steps: KeptSteps[Any], name: str, kept: _Kept, began_here: float) -> None:
        self._steps = steps
        self.name = name
        self.kept = kept
        self._began_here = began_here
        self.parking = _parking_of_outermost()

    @classmethod
    async def begin(cls) -> "_Wait":
        """Begin the next wait of the node in hand, or find it.

        Cancellation: it has begun, or not.
        """
        work = working.get(None)
        if not isinstance(work, WaitHost):
            raise not_here()
        steps, name = work.begin_wait()
        key = f"wait/{name}"
        with _journaled():
            data = (await steps.session.load_items()).get(key)
            if data is None:
                wait = cls(steps, key, _Kept(store_time()), trio.current_time())
                await wait.keep(is_over=False)
                return wait
        kept = msgspec.msgpack.decode(data, type=_Kept)
        # From here on by Trio's clock: the wall's may be set.
        return cls(steps, key, kept, trio.current_time() - (store_time() - kept.began))

    async def keep(self, *, is_over: bool) -> None:
        """Keep when the wait began, and whether its time is over.

        Cancellation: it was kept, or not.
        """
        with _journaled():
            data = msgspec.msgpack.encode(_Kept(self.kept.began, is_over))
            await self._steps.session.save_items([(self.name, data)])

    def deadline(self, seconds: float) -> float:
        """Return when that many seconds will have passed since the wait began, by Trio's clock."""
        return self._began_here + seconds

    def park(self, until: float, signal: str | None, reason: str) -> NoReturn:
        """End the call of the node until then, or until the signal comes."""
        left = until - trio.current_time()
        raise Parked(None if left == float("inf") else max(0.0, left), signal, reason)


async def durable_sleep(seconds: float) -> None:
    """Sleep in a node of a graph that is kept, across crashes: a node that is called again sleeps what is left.

    The seconds count from when this wait began first, by Trio's clock within a process, and by wall time between
    two. In a service, a run that sleeps for longer than `ServiceConfig.park_after` leaves memory, and its node is
    called again when it is time; what the node does before the wait should bear to be done twice.

    Args:
        seconds: how long; 0 or more.

    Raises:
        ConfigError: `seconds` is not a number of seconds.
        RuntimeError: this is not a node itself (a branch, a fan-out, a chain, a task that a node started), or the
            graph is not kept.
        CheckpointStoreError: the wait cannot be kept.

    Cancellation: passes through; the wait goes on when the node is called again.
    """
    check_in_trio()
    check_number("seconds", seconds, allowed="a number of seconds, 0 or more", least="zero")
    await trio.lowlevel.checkpoint()
    wait = await _Wait.begin()
    deadline = wait.deadline(seconds)
    reason = f"sleeps for {seconds:g} s"
    lot = wait.parking
    if lot is None:
        await trio.sleep_until(deadline)
        return
    if trio.current_time() < deadline:
        if lot.is_letting_go or deadline - trio.current_time() > lot.park_after:
            wait.park(deadline, None, reason)
        with lot.until(deadline):
            await trio.sleep_forever()
        if lot.is_letting_go and trio.current_time() < deadline:
            wait.park(deadline, None, reason)


async def wait_for_signal(name: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - across crashes
    """Wait in a node of a graph that is kept until a signal comes, and return its payload.

    A signal is sent by `Service.signal`, or `service_client`, also to a run that does not wait yet. It is taken
    once, the oldest of its name first; a node that is called again is given what it had taken. In a service, a run
    that waits for longer than `ServiceConfig.park_after` leaves memory; see `durable_sleep`.

    Args:
        name: the signal's name.
        timeout: seconds from when this wait began first; None waits for ever.

    Raises:
        trio.TooSlowError: no signal came in time.
        ConfigError: an argument cannot work, or the store cannot keep signals.
        RuntimeError: as for `durable_sleep`.
        CheckpointCorruptError: the signal is damaged.
        CheckpointStoreError: the wait cannot be kept, or the signal not be read.

    Cancellation: passes through; a signal that was taken is there when the node is called again.
    """
    check_in_trio()
    check_text("name", name)
    if timeout is not None:
        allowed = "a number of seconds, 0 or more, or None (for ever)"
        check_number("timeout", timeout, allowed=allowed, least="zero")
    await trio.lowlevel.checkpoint()
    wait = await _Wait.begin()
    deadline = float("inf") if timeout is None else wait.deadline(timeout)
    if wait.kept.is_over:
        raise _too_slow(name, timeout)
    lot = wait.parking or Parking("", float("inf"), _POLL)
    # From now on, not from when it began: a run that comes back has something to look at first.
    until = min(deadline, trio.current_time() + lot.park_after)
    reason = f"waits for the signal {quote(name)}"
    store = _signal_store()
    while True:
        with _journaled():
            seen = await store.wait_for_change(None, lot.poll)
        data = await _take(store, name, wait.name)
        if data is not None:
            return payload_codec.decode(data)
        if trio.current_time() >= deadline:
            await wait.keep(is_over=True)
            raise _too_slow(name, timeout)
        if lot.is_letting_go or trio.current_time() >= until:
            wait.park(deadline, name, reason)
        with lot.until(until), _journaled():
            await store.wait_for_change(seen, lot.poll)


async def _take(store: ServiceStore, name: str, wait: str) -> bytes | None:
    """Return the payload of the signal, if it is there.

    Cancellation: the signal may have been taken; the same wait is given it again.
    """
    session = outermost.get().session
    with _journaled():
        return await store.take_signal(session.run_id, session.epoch, name, f"{working.get().run_id}/{wait}")


def _signal_store() -> ServiceStore:
    store = outermost.get().store
    if not isinstance(store, ServiceStore):
        message = f"wait_for_signal() needs a store that keeps signals (a ServiceStore); {store!r} is none"
        raise ConfigError(message, field="store", value=store, allowed="a ServiceStore")
    return store


def _parking_of_outermost() -> Parking | None:
    """Return what the service says of the run that is kept; None where none makes it."""
    found = parking.get(None)
    return found if found is not None and found.run_id == outermost.get().session.run_id else None


@contextmanager
def _journaled() -> Iterator[None]:
    """Let what the store says end the run, past retries and error edges: it is no failure of the node."""
    try:
        yield
    except CheckpointError as error:
        raise JournalError from error


def _too_slow(name: str, timeout: float | None) -> trio.TooSlowError:
    return trio.TooSlowError(f"the signal {quote(name)} did not come within {timeout:g} s")


def not_here() -> RuntimeError:
    """Return the error for a wait that cannot be numbered."""
    return RuntimeError(
        "durable_sleep() and wait_for_signal() work in a node itself, while a graph that is kept calls it: not in "
        "branches, fan-outs, chains, or tasks that a node starts"
    )

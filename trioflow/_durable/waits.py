"""Durable waits: `durable_sleep` and `wait_for_signal`, in the nodes of durable graphs.

A wait is stored as an item of its run, with its start time, under the step, the node and the number of the wait in
this call of the node; so a node that is called again finds its own waits, and those that are over return at once.
The store assigns signals: the same wait gets the same signal, whichever process asks for it.

A service sets `parking` for the runs that it executes; a longer wait then ends the call of the node with `Parked`:
the run leaves memory, and the node is called again when the wait is over.
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
"""Seconds between two polls for a signal outside a service."""

payload_codec: Codec[Any] = Codec(Any, what="the payload of a signal")


@runtime_checkable
class WaitHost(Protocol):
    """A run whose nodes may wait."""

    def begin_wait(self) -> tuple[KeptSteps[Any], str]:
        """Return the steps of the run, and the identity of the next wait.

        Raises:
            RuntimeError: not called in the node itself, or the run is not durable.
        """
        ...


@final
class Parking:
    """How long one run may wait in memory; ends its waits when the service releases it.

    Attributes:
        run_id: the run's id.
        park_after: seconds that a wait may take.
        poll: seconds between two polls for a signal.
        is_released: whether all waits are to end.
    """

    __slots__ = ("_scopes", "is_released", "park_after", "poll", "run_id")

    def __init__(self, run_id: str, park_after: float, poll: float) -> None:
        self.run_id = run_id
        self.park_after = park_after
        self.poll = poll
        self.is_released = False
        self._scopes: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Parking of {self.run_id}: {len(self._scopes)} waits>"

    def release(self) -> None:
        """End all waits, current and future ones."""
        self.is_released = True
        for scope in self._scopes:
            scope.cancel(reason="the service releases the run")

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Leave the block at `deadline`, or when the run is released."""
        scope = trio.CancelScope(deadline=deadline)
        self._scopes.add(scope)
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)


parking: ContextVar[Parking] = ContextVar("trioflow_parking")
"""Set by a service in the task that executes a run."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """The stored record of a wait."""

    began: float
    is_over: bool = False


@final
class _Wait:
    """A wait that has started, in this process or an earlier one."""

    def __init__(self, steps: KeptSteps[Any], name: str, kept: _Kept, began_here: float) -> None:
        self._steps = steps
        self.name = name
        self.kept = kept
        self._began_here = began_here
        self.parking = _parking_of_outermost()

    @classmethod
    async def begin(cls) -> "_Wait":
        """Start the next wait of the running node, or load it.

        Cancellation: the wait may have been stored.
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
        # From here on by Trio's clock: wall time may be adjusted.
        return cls(steps, key, kept, trio.current_time() - (store_time() - kept.began))

    async def keep(self, *, is_over: bool) -> None:
        """Store when the wait started, and whether it timed out.

        Cancellation: the record may have been stored.
        """
        with _journaled():
            data = msgspec.msgpack.encode(_Kept(self.kept.began, is_over))
            await self._steps.session.save_items([(self.name, data)])

    def deadline(self, seconds: float) -> float:
        """Return the time, by Trio's clock, that is `seconds` after the start of the wait."""
        return self._began_here + seconds

    def park(self, until: float, signal: str | None, reason: str) -> NoReturn:
        """End the call of the node until then, or until the signal arrives."""
        left = until - trio.current_time()
        raise Parked(None if left == float("inf") else max(0.0, left), signal, reason)


async def durable_sleep(seconds: float) -> None:
    """Sleep in a node of a durable graph; a node that is called again, after a crash too, sleeps only the rest.

    The seconds count from when this wait first started, by Trio's clock within a process, and by wall time across
    processes. In a service, a run that sleeps for longer than `ServiceConfig.park_after` leaves memory, and its
    node is called again when the sleep is over; so code in the node before the wait must be idempotent.

    Args:
        seconds: how long to sleep; 0 or more.

    Raises:
        ConfigError: `seconds` is not a number of seconds.
        RuntimeError: not called in the node itself (but in a branch, a fan-out, a chain, or a task that a node
            started), or the graph is not durable.
        CheckpointStoreError: the wait cannot be stored.

    Cancellation: passes through; the wait continues when the node is called again.
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
        if lot.is_released or deadline - trio.current_time() > lot.park_after:
            wait.park(deadline, None, reason)
        with lot.until(deadline):
            await trio.sleep_forever()
        if lot.is_released and trio.current_time() < deadline:
            wait.park(deadline, None, reason)


async def wait_for_signal(name: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - across crashes
    """Wait for a signal in a node of a durable graph, and return its payload.

    `Service.signal` and `ServiceClient.signal` send signals, also before the run waits. Each is received once, the
    oldest of its name first; a node that is called again receives the same ones again. In a service, a run that
    waits for longer than `ServiceConfig.park_after` leaves memory; see `durable_sleep`.

    Args:
        name: the signal's name.
        timeout: seconds from when this wait first started; None waits forever.

    Raises:
        trio.TooSlowError: no signal arrived in time.
        ConfigError: an argument is invalid, or the store does not support signals.
        RuntimeError: as for `durable_sleep`.
        CheckpointCorruptError: the signal is damaged.
        CheckpointStoreError: the wait cannot be stored, or the signal cannot be read.

    Cancellation: passes through; a signal that was received is returned again when the node is called again.
    """
    check_in_trio()
    check_text("name", name)
    if timeout is not None:
        allowed = "a number of seconds, 0 or more, or None (forever)"
        check_number("timeout", timeout, allowed=allowed, least="zero")
    await trio.lowlevel.checkpoint()
    wait = await _Wait.begin()
    deadline = float("inf") if timeout is None else wait.deadline(timeout)
    if wait.kept.is_over:
        raise _too_slow(name, timeout)
    lot = wait.parking or Parking("", float("inf"), _POLL)
    # Counts from now, not from the start of the wait: a run that was parked must first check for its signal.
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
        if lot.is_released or trio.current_time() >= until:
            wait.park(deadline, name, reason)
        with lot.until(until), _journaled():
            await store.wait_for_change(seen, lot.poll)


async def _take(store: ServiceStore, name: str, wait: str) -> bytes | None:
    """Return the payload of the signal, if it has arrived.

    Cancellation: the signal may have been taken; the same wait gets it again.
    """
    session = outermost.get().session
    with _journaled():
        return await store.take_signal(session.run_id, session.epoch, name, f"{working.get().run_id}/{wait}")


def _signal_store() -> ServiceStore:
    store = outermost.get().store
    if not isinstance(store, ServiceStore):
        message = f"wait_for_signal() needs a store that supports signals (a ServiceStore), got {store!r}"
        raise ConfigError(message, field="store", value=store, allowed="a ServiceStore")
    return store


def _parking_of_outermost() -> Parking | None:
    """Return the `Parking` of the outermost run; None if no service executes it."""
    found = parking.get(None)
    return found if found is not None and found.run_id == outermost.get().session.run_id else None


@contextmanager
def _journaled() -> Iterator[None]:
    """Let store errors end the run, bypassing retries and error edges: they are not errors of the node."""
    try:
        yield
    except CheckpointError as error:
        raise JournalError from error


def _too_slow(name: str, timeout: float | None) -> trio.TooSlowError:
    return trio.TooSlowError(f"the signal {quote(name)} did not arrive within {timeout:g} s")


def not_here() -> RuntimeError:
    """Return the error for a wait outside a node."""
    return RuntimeError(
        "durable_sleep() and wait_for_signal() work only in a node itself, while a durable graph runs it: not in "
        "branches, fan-outs, chains, or tasks that a node starts"
    )

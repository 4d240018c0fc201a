"""The calls of a PostgreSQL store, made in its thread: one statement serves many callers.

Operations that are made `Together` are one statement, and so one transaction, for all callers that wait for it;
the statement returns the outcome of each call. If the statement fails, nothing of it is stored, and each call is
made on its own. If the connection is lost meanwhile, or a caller is cancelled, the outcome of each call in the
statement is unknown, and its next attempt takes that into account (`Tried.again`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import psycopg

from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint._postgres_link import GivenUpError, Link, Patience
from trioflow.checkpoint._postgres_rows import DAMAGE, Tried
from trioflow.checkpoint._turns import Call
from trioflow.errors import CheckpointCorruptError, CheckpointError, CheckpointStoreError

__all__ = ("Alone", "Calls", "Close", "Together")

_FAILURES = (psycopg.Error, OSError, UnicodeError, ValueError, OverflowError, TypeError)

_MEANINGS = {
    "53100": "cannot grow: the server's disk is full",
    "55P03": "is locked by another session for too long",
    "57014": "took too long: the server ended the statement",
    "25006": "cannot be written: the server is a standby, or is read-only",
    "42501": "may not be used as it must be by this user: grant it the right to create and to write tables",
}

_MOST_BYTES = 4 << 20
"""The most bytes of states in one statement, unless a single state is larger."""


class Alone(Call):
    """A call of an operation for one caller: `operation(db, *args)`.

    Attributes:
        tried: what is known of its attempts.
    """

    __slots__ = ("tried",)

    def __init__(self, operation: Callable[..., Any], *args: Any, tried: Tried) -> None:
        super().__init__(operation, *args)
        self.tried = tried


@final
class Together(Alone):
    """A call of an operation for many callers: `operation(db, [args], [tried])`.

    The operation returns a result or a `CheckpointError` for each.

    Args:
        run_id: the run that it changes, of which one statement makes one change only; None if it changes none.
        size: the size of its state in bytes.
    """

    __slots__ = ("run_id", "size")

    def __init__(
        self, operation: Callable[..., Any], *args: Any, run_id: str | None = None, size: int = 0
    ) -> None:
        super().__init__(operation, *args, tried=Tried())
        self.run_id = run_id
        self.size = size


@final
class Close(Call):
    """A call that closes the connection, after the other calls of its group."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Link.close)


@final
class Calls:
    """Makes the calls of a store, in its thread.

    Args:
        link: the connection.

    Attributes:
        closing: set while the store is being closed.
    """

    __slots__ = ("_link", "closing")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.closing = threading.Event()

    def __repr__(self) -> str:
        return f"<Calls over {self._link!r}>"

    def make(self, calls: Sequence[Call]) -> None:
        """Make these calls; each ends, except those in progress when one of their callers is cancelled."""

        def stop() -> None:
            if any(call.is_given_up for call in calls):
                raise GivenUpError
            if self.closing.is_set():
                raise CheckpointStoreError(f"the store {quote(self._link.name)} was closed meanwhile")

        bounds = self._link.bounds
        patience = Patience(bounds.returning if self._link.reached else bounds.appearing, stop)
        try:
            for part in _parts(calls):
                self._make_part(part, patience, stop)
        except GivenUpError:
            return
        for call in calls:
            if isinstance(call, Close):
                self._link.close()
                call.succeed(None)

    def _make_part(self, part: Sequence[Alone], patience: Patience, stop: Callable[[], None]) -> None:
        """Make the calls of one statement, or one call of another kind."""
        try:
            failure = self._tried_until_answered(part, patience, stop)
        except CheckpointError as error:
            # An error of the server or the store, not of one call: every caller gets it.
            for call in part:
                call.fail(error if len(part) == 1 else CheckpointStoreError(str(error)))
            return
        if failure is None:
            return
        if len(part) == 1:
            part[0].fail(self._meaning(failure))
            return
        for call in part:
            self._make_part([call], patience, stop)

    def _tried_until_answered(
        self, part: Sequence[Alone], patience: Patience, stop: Callable[[], None]
    ) -> Exception | None:
        """Make the calls, reconnecting as often as needed; return the error if the server rejects them."""
        while True:
            is_answered = False
            try:
                _make_on(self._link.ready(stop), part)
                is_answered = True
            except _FAILURES as error:
                is_answered = not self._link.is_lost(error)
                failure = error
            else:
                return None
            finally:
                # Also if one of the callers is cancelled.
                if not is_answered:
                    for call in part:
                        call.tried.again = True
            if is_answered:
                return failure
            patience.wait(failure, self._link.name)

    def _meaning(self, error: Exception) -> CheckpointError:
        """Return the store error for an error of the driver."""
        name, why = quote(self._link.name), one_line(describe_error(error))
        code = error.sqlstate if isinstance(error, psycopg.Error) else None
        meant: CheckpointError = CheckpointStoreError(f"the store {name} failed: {why}")
        if code in DAMAGE:
            meant = CheckpointCorruptError(f"the store {name} is damaged ({why}): restore a copy of it")
        elif code in _MEANINGS:
            meant = CheckpointStoreError(f"the store {name} {_MEANINGS[code]} ({why})")
        meant.__cause__ = error
        return meant


class _Part:
    """Calls that form one statement."""

    def __init__(self) -> None:
        self.calls: list[Alone] = []
        self._run_ids: set[str] = set()
        self._size = 0

    def takes(self, call: Together) -> bool:
        """Whether the call can join those already in this statement."""
        return call.run_id not in self._run_ids and self._size + call.size <= _MOST_BYTES

    def add(self, call: Together) -> None:
        self.calls.append(call)
        self._size += call.size
        if call.run_id is not None:
            self._run_ids.add(call.run_id)


def _parts(calls: Sequence[Call]) -> Iterator[Sequence[Alone]]:
    """Yield the calls in parts: the calls of one statement each, or one call of another kind."""
    open_: dict[Callable[..., Any], _Part] = {}
    for call in calls:
        if isinstance(call, Together):
            part = open_.get(call.operation)
            if part is not None and not part.takes(call):
                yield open_.pop(call.operation).calls
            open_.setdefault(call.operation, _Part()).add(call)
        elif isinstance(call, Alone):
            yield [call]
    for part in open_.values():
        yield part.calls


def _make_on(db: Any, part: Sequence[Alone]) -> None:
    if not isinstance(part[0], Together):
        part[0].succeed(part[0].operation(db, *part[0].args))
        return
    ends = part[0].operation(db, [call.args for call in part], [call.tried for call in part])
    for call, end in zip(part, ends, strict=True):
        if isinstance(end, CheckpointError):
            call.fail(end)
        else:
            call.succeed(end)

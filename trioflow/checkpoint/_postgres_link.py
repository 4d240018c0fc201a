"""A store's single connection to PostgreSQL: waits are bounded, and a lost connection is replaced.

A worker thread uses it, and checks ten times a second whether to keep waiting: a cancelled caller does not. A
store has one session on the server at a time: it holds the store's advisory lock, and a new session terminates the
previous one, which may still be executing. So what is read after a loss stays true.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, final
from urllib.parse import quote as percent

import msgspec
import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint._postgres_schema import Connection, prepare
from trioflow.errors import CheckpointStoreError

__all__ = ("Bounds", "GivenUpError", "Link", "Patience", "describe")

R = TypeVar("R")

OLDEST_SERVER = 13

APPLICATION = "trioflow"

_DURABLE = ("on", "remote_apply")

# A statement is planned once per session. Every lookup is by key, and a plan that was made while the tables were
# small must not scan them sequentially when they are large.
_SETTINGS = """
    SELECT set_config('lock_timeout', %(lock)s, false), set_config('statement_timeout', %(statement)s, false),
        set_config('idle_in_transaction_session_timeout', %(statement)s, false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('default_transaction_read_only', %(read_only)s, false),
        set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false),
        set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
        set_config('enable_mergejoin', 'off', false),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)
"""

_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32 | objid::bigint) = %s
"""

_GONE = ("08", "57P", "25P03")
"""The prefixes of error codes that end a connection."""

# In the message of a server that is starting up, shutting down or overloaded.
_COMES_BACK = ("starting up", "shutting down", "recovery", "too many", "terminating", "connection slots")

_MISTAKES = ("no password supplied", "translate host name", "certificate", "does not support SSL")
"""In the message about a server that this URL will never reach."""


class Bounds(msgspec.Struct, kw_only=True, frozen=True):
    """The limits of waits, in seconds."""

    lock: float = 10.0
    """For a lock that another session holds."""
    statement: float = 30.0
    """For the server to execute one statement."""
    silence: float = 40.0
    """For the server to send anything."""
    connect: int = 5
    """For one attempt to connect, if the URL sets no limit."""
    returning: float = 60.0
    """For a server that was available to become available again."""
    appearing: float = 10.0
    """For a server that this store has never reached."""
    cancelled: float = 2.0
    """For an operation in progress whose caller is cancelled."""


class GivenUpError(Exception):
    """One of the callers for which the thread works was cancelled."""


class _Silent(psycopg.OperationalError):
    """The server sent nothing for too long; the connection is closed."""


class _Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection that never waits indefinitely."""

    silence: float = 0.0
    grace: float = 0.0
    stop: Callable[[], object] = staticmethod(lambda: None)

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **kwargs: Any) -> R:
        """Do the driver's waiting, and close the connection if it takes too long."""
        return super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, gen: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
        until = time.monotonic() + self.silence
        given_up = False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if not given_up and not ready and self._is_stopped():
                    # The operation is usually nearly done; if so, its outcome becomes known.
                    given_up = True
                    until = min(until, now + self.grace)
                elif ready and not given_up:
                    until = now + self.silence
                if now >= until:
                    self._give_up()
                wanted = gen.send(ready)
        except StopIteration as end:
            result: R = end.value
            return result

    def _is_stopped(self) -> bool:
        try:
            self.stop()
        except (trio.Cancelled, GivenUpError, CheckpointStoreError):  # noqa: ASYNC103 - in a thread: it is raised when time is up
            return True  # noqa: ASYNC104 - the same
        return False

    def _give_up(self) -> None:
        # In the middle of a response, the connection cannot be used again.
        self.close()
        self.stop()
        raise _Silent(f"the server has not answered for {self.silence:g} s")


@final
class Patience:
    """Limits how long one operation waits for an unavailable server, from when it was lost."""

    def __init__(self, seconds: float, stop: Callable[[], None]) -> None:
        self._seconds = seconds
        self._stop = stop
        self._until: float | None = None
        self._pause = 0.02

    def __repr__(self) -> str:
        return f"<Patience: {self._seconds:g} s{'' if self._until is None else ', waiting'}>"

    def wait(self, error: Exception, server: str) -> None:
        """Wait a little.

        Raises:
            CheckpointStoreError: the time is over; or the store was closed.
            GivenUpError: the caller was cancelled.
        """
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        if now >= self._until:
            why = one_line(describe_error(error))
            message = f"the server of {quote(server)} has not been there for {self._seconds:g} s: {why}"
            raise CheckpointStoreError(message)
        self._stop()
        time.sleep(min(self._pause, self._until - now))
        self._pause = min(self._pause * 1.5, 0.25)


@final
class Link:
    """The connection of one store, made when it is first needed.

    Args:
        url: a libpq URL; it may contain a password, and is never shown.
        read_only: whether the session can change nothing.
        bounds: the limits of waits.

    Raises:
        psycopg.ProgrammingError: libpq does not accept `url`.
    """

    def __init__(self, url: str, *, read_only: bool, bounds: Bounds) -> None:
        given = conninfo_to_dict(url)
        self.name = describe(given)
        self.bounds = bounds
        self.reached = False
        self._read_only = read_only
        self._session: _Session | None = None
        self._lock = secrets.randbits(63)

        def connect() -> _Session:
            return _Session.connect(
                url,
                autocommit=True,
                client_encoding="utf8",
                connect_timeout=given.get("connect_timeout") or bounds.connect,
                application_name=given.get("application_name") or APPLICATION,
            )

        # The URL is in a closure, not an attribute, so nothing that prints attributes shows it.
        self._connect = connect

    def __repr__(self) -> str:
        return f"<Link to {self.name}{'' if self._session is None else ', open'}>"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._session is not None and not self._session.closed

    @property
    def process(self) -> int | None:
        """The process id of the server's backend for the connection; None without a connection."""
        return self._session.info.backend_pid if self._session is not None and self.is_open else None

    def is_lost(self, error: Exception) -> bool:
        """Whether `error` means that the connection is lost, or was not made; if so, close what is left of it."""
        if not isinstance(error, psycopg.Error):
            return False
        code = error.sqlstate
        lost = isinstance(error, psycopg.OperationalError) if code is None else code.startswith(_GONE)
        if lost:
            self.close()
        return lost

    def ready(self, stop: Callable[[], None]) -> Connection:
        """Return the connection, opened if need be; `stop` raises if the operation should stop waiting.

        Raises:
            psycopg.Error: the server is not available.
            CheckpointStoreError: it refuses the connection, is too old, or has tables of an unknown version.
        """
        if self._session is None or self._session.closed:
            self._session = self._open(stop)
            self.reached = True
        self._session.stop = stop
        if self._session.pgconn.transaction_status != TransactionStatus.IDLE:
            # An operation failed and could not be rolled back; nothing may join its transaction.
            self._session.rollback()
        return self._session

    @contextmanager
    def taking(self, seconds: float) -> Iterator[None]:
        """Raise the time limit for statements in the block."""
        session = self._session
        if session is None:
            raise RuntimeError("ready() comes first")
        _set_timeout(session, seconds)
        session.silence = seconds + self.bounds.silence
        try:
            yield
        finally:
            session.silence = self.bounds.silence
            if not session.closed:
                _set_timeout(session, self.bounds.statement)

    def close(self) -> None:
        """Close the connection, even in the middle of an operation."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self, stop: Callable[[], None]) -> _Session:
        try:
            session = self._connect()
        except psycopg.OperationalError as error:
            why = describe_error(error)
            if _is_final(why, reached=self.reached):
                message = f"the store {quote(self.name)} cannot be opened: {one_line(why)}"
                raise CheckpointStoreError(message) from None
            # Without the driver's frames, whose variables contain the password.
            raise error.with_traceback(None) from None
        with ExitStack() as undo:
            undo.callback(session.close)
            session.silence, session.grace, session.stop = self.bounds.silence, self.bounds.cancelled, stop
            self._check_server(session)
            self._set_up(session)
            self._be_the_only_one(session)
            prepare(session, migrate=not self._read_only)
            undo.pop_all()
        return session

    def _check_server(self, session: _Session) -> None:
        version = session.info.server_version
        if version < OLDEST_SERVER * 10_000:
            found = f"the server of {quote(self.name)} is PostgreSQL {version // 10_000}"
            raise CheckpointStoreError(f"{found}: {OLDEST_SERVER} or newer is needed")

    def _set_up(self, session: _Session) -> None:
        values = {
            "lock": _milliseconds(self.bounds.lock),
            "statement": _milliseconds(self.bounds.statement),
            "read_only": "on" if self._read_only else "off",
        }
        row = session.execute(_SETTINGS, values).fetchone()
        # A commit must not return before it is on disk: it would be lost if the machine crashed.
        if row is None or row[-1] not in _DURABLE:
            raise CheckpointStoreError(f"the store {quote(self.name)} cannot be made durable: synchronous_commit")

    def _be_the_only_one(self, session: _Session) -> None:
        """Terminate the store's previous session, which may be alive if only the network to it was lost."""
        if session.execute("SELECT pg_try_advisory_lock(%s)", (self._lock,)).fetchone() != (True,):
            session.execute(_END_OTHERS, (self._lock,))
            session.close()
            raise psycopg.OperationalError("the session before this one has not ended")


def describe(given: Mapping[str, Any]) -> str:
    """Return a URL that may be shown: host, port, database and user, without secrets.

    Raises:
        psycopg.ProgrammingError: part of an unencoded password was parsed as another part of the URL.
    """
    host = str(given.get("host") or given.get("hostaddr") or "")
    ports = str(given.get("port") or "")
    database = str(given.get("dbname") or "")
    if "@" in host + database or not all(port.isdecimal() for port in ports.split(",") if port):
        raise psycopg.ProgrammingError("a part of the password stands where others belong")
    user = f"{percent(str(given['user']))}@" if given.get("user") else ""
    port = f":{ports.lstrip(',')}" if ports else ""
    service = f"?service={percent(str(given['service']))}" if given.get("service") else ""
    return f"postgresql://{user}{percent(host, safe=',:[]')}{port}/{percent(database)}{service}"


def _set_timeout(session: _Session, seconds: float) -> None:
    session.execute("SELECT set_config('statement_timeout', %s, false)", (_milliseconds(seconds),))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1_000))


def _is_final(why: str, *, reached: bool) -> bool:
    """Whether a refusal is permanent, judging by its message: it has no error code."""
    if "FATAL" in why:
        return not any(words in why for words in _COMES_BACK)
    return not reached and any(words in why for words in _MISTAKES)

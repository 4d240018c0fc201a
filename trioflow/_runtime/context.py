"""`current_run()`: tells the code that a run calls which piece of work it was called for.

Nothing is computed before it is asked for. An object that calls user code for a run (a worker of a fan-out, a
chain, the runner of a graph, an agent of a hub) is a `Work`: it sets `working` to itself, once, in the task in
which it calls that code, and its `in_hand()` returns the current piece of work. Between two pieces of work
`in_hand()` raises the error that `nothing_in_hand` returns. Tasks that the user code starts inherit the variable.

`working` also identifies the run in which another run is started: `enclosing_run_id`, for `Event.parent`.
"""

import hashlib
import re
import uuid
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, NamedTuple, Protocol, cast, final

import msgspec
import trio

from trioflow._text import one_line
from trioflow.config.checks import check_text
from trioflow.events import EventType

_MADE_UP = re.compile(r"[0-9a-f]{32}")
_encoder = msgspec.msgpack.Encoder()


class Emitting(Protocol):
    """The part of a run's emitter that is needed here."""

    run_id: str
    active: bool

    def emit(self, type: EventType, data: dict[str, Any]) -> None:
        """Send an event to the observers."""
        ...


class RunContext(msgspec.Struct, frozen=True, dict=True):
    """The run and the piece of work that code is called for; a field that does not apply is None."""

    run_id: str
    """The id of the innermost run."""
    kind: str
    """The kind of run: `parallel`, `chain`, `graph`, `conditional` or `hub`."""
    name: str | None
    """The name of the graph, agent or hub."""
    node: str | None
    """The node of a graph."""
    index: int | None
    """The index of the item."""
    step: int | None
    """How many steps of a chain or graph were complete before this one."""
    attempt: int
    """The number of this attempt, from 1."""
    key: str
    """An idempotency key: the same for one piece of work across attempts, resumes and processes, and unique to it.

    If the caller passed no `run_id`, it is the same across attempts only.
    """

    def emit(self, name: str, /, **data: Any) -> None:
        """Emit a `custom` event of the run, with the data `{"name": name, "data": data}`.

        Raises:
            ConfigError: the name is empty.
            RuntimeError: the run is in another process, or in the loop of another thread.
        """
        check_text("the name of a custom event", name)
        emitter: Emitting | None = self.__dict__.get("emitter")
        if emitter is None:
            raise RuntimeError("emit() works where the run is, and the run is in another process or thread")
        if emitter.active:
            emitter.emit(EventType.CUSTOM, {"name": name, "data": data})


class WorkInHand(NamedTuple):
    """A piece of work; a tuple, because that is cheap to create and to send to another process."""

    run_id: str
    kind: str
    """The source of the run's events."""
    attempt: int
    """The number of the attempt, from 1."""
    name: str | None = None
    """What the graph, agent or hub is called."""
    node: str | None = None
    item_index: int | None = None
    step: int | None = None
    """How many steps were complete."""
    identity: str | int | None = None
    """The identity of the item, if that is not its index."""


class Work(Protocol):
    """Calls user code for a run."""

    @property
    def emitter(self) -> Emitting | None:
        """Emits the events of the run; None if the run is in another process or thread."""
        ...

    @property
    def run_id(self) -> str:
        """The id of the run."""
        ...

    @property
    def worker(self) -> int | None:
        """The number of the worker; None if this is not a worker."""
        ...

    def in_hand(self) -> WorkInHand:
        """Return the current piece of work.

        Raises:
            RuntimeError: there is none.
        """
        ...


working: ContextVar[Work] = ContextVar("trioflow_working")
"""Set in the task in which a run calls user code, and inherited by all tasks that this code starts."""


def current_run() -> RunContext:
    """Return the run and the piece of work that this code was called for.

    Works in processors, steps, nodes and handlers, and in the tasks that they start; in a run inside another run,
    it returns the inner one. `key` identifies the piece of work, for an API that takes an idempotency key; `emit`
    sends an event of your own to the observers of the run.

    Raises:
        RuntimeError: no run has called this code: it is in a stream's body, a source, a `progress` function, or
            outside of any run.
    """
    work = working.get(None)
    if work is None:
        raise nothing_in_hand()
    context = context_of(work.in_hand())
    cast("Any", context).__dict__["emitter"] = work.emitter
    return context


def context_of(work: WorkInHand) -> RunContext:
    """Return the context of a piece of work; it cannot emit."""
    run_id, kind, attempt, name, node, index, step, identity = work
    place = (kind, run_id, name, node, index if identity is None else identity, step)
    key = hashlib.blake2b(_encoder.encode(place), digest_size=16).hexdigest()
    return RunContext(run_id, kind, name, node, index, step, attempt, key)


def nothing_in_hand() -> RuntimeError:
    """Return the error that `current_run` raises if no piece of work is in hand."""
    return RuntimeError("current_run() works in processors, steps, nodes and handlers, while a run calls them")


def id_of(emitter: Emitting) -> str:
    """Return the id of the emitter's run; a run without observers generates its id when it is first needed."""
    if not emitter.run_id:
        emitter.run_id = uuid.uuid4().hex
    return emitter.run_id


def task_name(emitter: Emitting, kind: str, what: object = None) -> str:
    """Return the name for the tasks of a run: the id if the caller passed one, or the kind; and what it calls.

    In a task tree, as a debugger or a traceback shows it, this is all that identifies a run.
    """
    given = emitter.run_id and not _MADE_UP.fullmatch(emitter.run_id)
    run = one_line(emitter.run_id) if given else kind
    if isinstance(what, str):
        return f"trioflow {run}[{one_line(what)}]"
    while isinstance(what, partial):
        what = what.func
    called = getattr(what, "__name__", None)
    return f"trioflow {run}[{one_line(called)}]" if isinstance(called, str) else f"trioflow {run}"


def leave_work() -> None:
    """Make `current_run` raise in this context from now on: its code is not called for a piece of work.

    A source is pulled on behalf of the run that it feeds, even if that run was started in another run's processor.
    Runs that are started in the source still have that other run as their parent.
    """
    work = working.get(None)
    if work is not None:
        working.set(_Between(work))


@final
class _Between:
    """The caller of code inside a run that is not called for a piece of work."""

    emitter = None

    def __init__(self, around: Work) -> None:
        self._around = around

    @property
    def run_id(self) -> str:
        """The id of the enclosing run."""
        return self._around.run_id

    @property
    def worker(self) -> int | None:
        """The number of the enclosing worker."""
        return self._around.worker

    def in_hand(self) -> WorkInHand:
        """Raise `RuntimeError`."""
        raise nothing_in_hand()


def enclosing_run_id() -> str | None:
    """Return the id of the run that this code was called for; None outside a run."""
    work = working.get(None)
    return None if work is None else work.run_id


def enclosing_worker(run_id: str | None) -> int | None:
    """Return the number of the worker of this run that called this code; None if none did."""
    work = working.get(None)
    return None if work is None or run_id is None or work.run_id != run_id else work.worker


def is_changed(context: Context) -> bool:
    """Whether a context variable of this task has another value than in `context`."""
    try:
        return copy_context() != context
    except Exception:  # noqa: BLE001 - identical values compare equal without a call, so one that raises was set
        return True


async def reset_context(context: Context) -> None:
    """Reset the context variables of this task to their values in `context`, before it calls anything else.

    A variable that one node, step or handler sets must not be visible to the next. A task for each would ensure
    that too, but would cost more than the rest of a step. This costs a step that sets a variable one pass through
    the scheduler, because Trio reads a task's context when it resumes the task; it costs the other steps next to
    nothing.

    Cancellation: shielded.
    """
    trio.lowlevel.current_task().context = context.copy()
    await trio.lowlevel.cancel_shielded_checkpoint()

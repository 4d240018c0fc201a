"""What a piece of work may know of itself: `current_run()`, for the code that a run calls.

Nothing is computed until somebody asks. What calls user code for a run (a worker of a fan-out, a chain, the
runner of a graph, an agent of a hub) is a `Work`: it sets `working` to itself, once, in the task in which it calls
that code, and its `in_hand()` says what it has in hand. Between two pieces of work `in_hand()` raises what
`nothing_in_hand` gives. Tasks that the user's code starts inherit the variable.

`working` also says which run something is started in: `enclosing_run_id`, for `Event.parent`.
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
    """What of a run's emitter is needed here."""

    run_id: str
    active: bool

    def emit(self, type: EventType, data: dict[str, Any]) -> None:
        """Hand an event to the observers."""
        ...


class RunContext(msgspec.Struct, frozen=True, dict=True):
    """The run, and the piece of work of it, that code is called for; what does not apply is None."""

    run_id: str
    """The id of the innermost run."""
    kind: str
    """What kind of run: `parallel`, `chain`, `graph`, `conditional` or `hub`."""
    name: str | None
    """What the graph, agent or hub is called."""
    node: str | None
    """The node of a graph."""
    index: int | None
    """The index of the item."""
    step: int | None
    """How many steps of a chain or graph were complete before this one."""
    attempt: int
    """Which attempt this is, from 1."""
    key: str
    """The same for the same piece of work over attempts, resumes and processes, and no other's.

    An idempotency key, for an API that takes one.
    Without a `run_id` of the caller's it is the same over attempts only.
    """

    def emit(self, name: str, /, **data: Any) -> None:
        """Emit a `custom` event of the run, whose data are `{"name": name, "data": data}`.

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
    """A piece of work, as cheap to make and to send to another process as a tuple."""

    run_id: str
    kind: str
    """The source of the run's events."""
    attempt: int
    """Which attempt it is, from 1."""
    name: str | None = None
    """What the graph, agent or hub is called."""
    node: str | None = None
    item_index: int | None = None
    step: int | None = None
    """How many steps were complete."""
    identity: str | int | None = None
    """What the item is known by, where that is not its index."""


class Work(Protocol):
    """Who calls user code for a run."""

    @property
    def emitter(self) -> Emitting | None:
        """What emits the events of the run; None where the run is somewhere else."""
        ...

    @property
    def run_id(self) -> str:
        """The id of the run."""
        ...

    @property
    def worker(self) -> int | None:
        """The number of the worker that it is; None for what is none."""
        ...

    def in_hand(self) -> WorkInHand:
        """Return what is in hand.

        Raises:
            RuntimeError: nothing is.
        """
        ...


working: ContextVar[Work] = ContextVar("trioflow_working")
"""Set in the task in which a run calls user code, and so in all tasks that this code starts."""


def current_run() -> RunContext:
    """Return the run, and the piece of work of it, that this code is called for.

    It is there in processors, steps, nodes and handlers, and in the tasks that they start; of a run inside a run
    it is the inner one. `key` identifies the piece of work, for an API that takes an idempotency key; `emit` gives
    the observers of the run an event of your own.

    Raises:
        RuntimeError: no run has called this code: it is in a stream's body, a source, a `progress` function, or
            outside.
    """
    work = working.get(None)
    if work is None:
        raise nothing_in_hand()
    context = context_of(work.in_hand())
    cast("Any", context).__dict__["emitter"] = work.emitter
    return context


def context_of(work: WorkInHand) -> RunContext:
    """Return the context of a piece of work, which cannot emit."""
    run_id, kind, attempt, name, node, index, step, identity = work
    place = (kind, run_id, name, node, index if identity is None else identity, step)
    key = hashlib.blake2b(_encoder.encode(place), digest_size=16).hexdigest()
    return RunContext(run_id, kind, name, node, index, step, attempt, key)


def nothing_in_hand() -> RuntimeError:
    """Return what `current_run` raises where no piece of work is in hand."""
    return RuntimeError("current_run() works in processors, steps, nodes and handlers, while a run calls them")


def id_of(emitter: Emitting) -> str:
    """Return the id of the emitter's run; a silent run without one is given one when somebody asks."""
    if not emitter.run_id:
        emitter.run_id = uuid.uuid4().hex
    return emitter.run_id


def task_name(emitter: Emitting, kind: str, what: object = None) -> str:
    """Return what the tasks of a run are called: by the id that it was given, if any, and what it calls.

    In a tree of tasks, such as a debugger or a traceback shows, this is all that there is to be seen of a run.
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
    """Have `current_run` raise in this context from now on: what runs in it is called for no piece of work.

    A source is pulled on behalf of the run that it feeds, also where that run was started in another's processor.
    What is started in it still has that other run as its parent.
    """
    work = working.get(None)
    if work is not None:
        working.set(_Between(work))


@final
class _Between:
    """What code is called by that is no piece of work itself, within a run."""

    emitter = None

    def __init__(self, around: Work) -> None:
        self._around = around

    @property
    def run_id(self) -> str:
        """The id of the run around it."""
        return self._around.run_id

    @property
    def worker(self) -> int | None:
        """The worker around it."""
        return self._around.worker

    def in_hand(self) -> WorkInHand:
        """Raise `RuntimeError`."""
        raise nothing_in_hand()


def enclosing_run_id() -> str | None:
    """Return the id of the run that this code is called for; None where there is none."""
    work = working.get(None)
    return None if work is None else work.run_id


def enclosing_worker(run_id: str | None) -> int | None:
    """Return the number of the worker of that run that this code is called by; None where there is none."""
    work = working.get(None)
    return None if work is None or run_id is None or work.run_id != run_id else work.worker


def is_changed(context: Context) -> bool:
    """Whether context variables of this task are set otherwise than in `context`."""
    try:
        return copy_context() != context
    except Exception:  # noqa: BLE001 - values that cannot be compared have been set, or they would be the same
        return True


async def reset_context(context: Context) -> None:
    """Set the context variables of this task as they are in `context`, for what it calls next.

    What one node, step or handler sets is not seen by the next. A task for each would do the same and cost more
    than the rest of a step; this costs the step that sets something a turn of the scheduler, for Trio resumes a
    task in the context that it finds there, and the others next to nothing.

    Cancellation: shielded.
    """
    trio.lowlevel.current_task().context = context.copy()
    await trio.lowlevel.cancel_shielded_checkpoint()

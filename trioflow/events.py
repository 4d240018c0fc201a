"""Events, and the protocol of the observers that receive them.

Events carry indexes, names, counts, durations, error types and error messages. Items, results, states and hub
messages are added only for an observer whose `include_data` is true.
"""

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

__all__ = ("Event", "EventType", "Observer", "Place")


RATE_WAIT = "rate.wait"
"""Name of the `custom` event emitted before an attempt waits for the run's rate limit."""


class EventType(StrEnum):
    """The kinds of events; each `*.start` is followed by its `*.complete` on every way out."""

    GRAPH_START = "graph.start"
    GRAPH_COMPLETE = "graph.complete"
    NODE_START = "node.start"
    NODE_STATE = "node.state"
    NODE_COMPLETE = "node.complete"
    EDGE_EVALUATE = "edge.evaluate"
    EDGE_TRANSITION = "edge.transition"
    CYCLE_DETECTED = "cycle.detected"
    CHAIN_START = "chain.start"
    CHAIN_COMPLETE = "chain.complete"
    STEP_START = "step.start"
    STEP_COMPLETE = "step.complete"
    PARALLEL_START = "parallel.start"
    PARALLEL_COMPLETE = "parallel.complete"
    WORKER_START = "worker.start"
    WORKER_COMPLETE = "worker.complete"
    TASK_RETRY = "task.retry"
    CHECKPOINT_SAVE = "checkpoint.save"
    CHECKPOINT_LOAD = "checkpoint.load"
    CHECKPOINT_RESUME = "checkpoint.resume"
    ROUTE_EVALUATE = "route.evaluate"
    ROUTE_SELECT = "route.select"
    ROUTE_EXECUTE = "route.execute"
    MESSAGE_SENT = "message.sent"
    MESSAGE_HANDLED = "message.handled"
    CUSTOM = "custom"


class Place(msgspec.Struct, frozen=True):
    """A line of the user's code, from which a run was started."""

    module: str
    file: str
    function: str
    line: int


class Event(msgspec.Struct, frozen=True):
    """Something that happened in a run."""

    type: EventType
    """What happened."""
    timestamp: float
    """Seconds since the epoch."""
    source: str
    """The pattern that emitted it, such as "parallel"."""
    run_id: str
    """The id of its run: the caller's, or a generated one."""
    data: dict[str, Any]
    """Plain values; which ones depends on `type`."""
    parent: str | None = None
    """The id of the run in which its run was started; None for an outermost run."""
    place: Place | None = None
    """Where the user's code started the run, if known."""
    parent_worker: int | None = None
    """The worker of the parent run that started the run; None if the parent has no workers."""


@runtime_checkable
class Observer(Protocol):
    """Receives the events of a run.

    An observer with a true attribute `include_data` also gets items, results, states or messages in
    `Event.data`. An `Exception` that `on_event` raises never changes a run's outcome; it is logged, once per
    observer and run. A `KeyboardInterrupt` or other non-`Exception` propagates.

    Three more methods are optional:

    `wants(type: EventType) -> bool`, which must be fast: if every observer of a run returns False, a pattern may
    skip events of that type together with the events that would end what they start. Events of a failure are
    never skipped.

    `on_items(event: Event) -> None`, for an observer that needs no details of successful items, at a tenth of the
    cost of two events per item. Items that succeed at their first attempt are batched, for at most one turn of
    the scheduler, into one event of type `worker.complete` whose `data["items"]` has a tuple `(worker_id,
    item_index, timestamp of its end, duration)` for each. Such an observer gets no `worker.start` until an item
    fails: then `on_event` receives both of the item's events, the first with the timestamp of its start.

    `on_begin(event: Event) -> None`, for operations that otherwise emit an event only at their end: the parts of
    a routing and the messages of a hub. The event has the same type as the one at the end, and what is known by
    then. It is emitted in the task, or in the context, that then calls the user's code: `message.sent` in the
    sender's, before delivery, and `message.handled` in the handler's. `on_begin` also receives a `custom` event
    named `rate.wait` before an attempt waits for its run's rate limit for half a second or more; its `delay` is
    the expected wait in seconds.
    """

    def on_event(self, event: Event) -> None:
        """Handle `event`; called in the run's own task, so be quick and never block."""

"""What a run emits while it works: events, and the protocol of the observers that receive them.

Events carry indexes, names, counts, durations, error types and messages. Items, results, states and messages
are added only for an observer whose `include_data` is true.
"""

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

__all__ = ("Event", "EventType", "Observer", "Place")


RATE_WAIT = "rate.wait"
"""The name of the event that announces a wait for the rate of a run."""


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
    """A line of the user's code."""

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
    """The pattern that emits it, such as "parallel"."""
    run_id: str
    """The run that it belongs to: the caller's id, or one made for the run."""
    data: dict[str, Any]
    """Plain values; which ones depends on `type`."""
    parent: str | None = None
    """The run in which the event's run was started; None for an outermost one."""
    place: Place | None = None
    """Where the user's code started the run, where that is known."""
    parent_worker: int | None = None
    """The worker of the parent that the run was started by; None where that has no workers."""


@runtime_checkable
class Observer(Protocol):
    """What receives the events of a run.

    An observer with a true attribute `include_data` also gets items, results, states or messages in
    `Event.data`. What `on_event` raises never changes a run's outcome, unless it is a `KeyboardInterrupt` or
    another exception that is not an `Exception`.

    An observer that often has no use for events can have a method `wants(type: EventType) -> bool`, which must be
    quick: where every observer of a run says no, a pattern may leave out an event of that type, and the one that
    would end what it starts. Events of a failure always come.

    An observer that needs no more of an item than that it succeeded can have a method
    `on_items(event: Event) -> None`, which costs a tenth of two events for each: items that succeed at their first
    attempt come together, a turn of the scheduler later at most, in one event of type `worker.complete`, whose
    `data["items"]` has a tuple `(worker_id, item_index, timestamp of its end, duration)` for each. There is no
    `worker.start` for such an observer until an item fails: then its two events come to `on_event`, the first with
    the timestamp of when it began.

    An observer can have a method `on_begin(event: Event) -> None` for what has an event at its end only: the parts
    of a routing and the messages of a hub. The event says what is known of it, and has the type of the one at its
    end. It comes in the task, or in the context, in which the user's code is called then: `message.sent` in the
    sender's, before the message is on its way, and `message.handled` in the handler's. An attempt at an item that
    is about to wait for the rate of its run for half a second or more is announced too, by an event of type
    `custom` with the name `rate.wait` and, as `delay`, the seconds that are expected.
    """

    def on_event(self, event: Event) -> None:
        """Take note of `event`: called in the run's own task, so be quick and never block."""

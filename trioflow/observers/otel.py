"""OpenTelemetry spans and metrics of runs.

A run is a span, and its calls are child spans. Events are emitted in the task in which the user's code is called,
so the span of a call becomes the current one there, and spans that the code or an instrumented client opens are
its children. At the end of the call the context is detached, unless the task has another one by then. Operations
without a start event, such as a handler, are reported by `on_begin`. A message carries its sender's context in its
headers.

Names follow OpenTelemetry's semantic conventions where they exist, for messages, agent workflows, errors and code;
all others start with `trioflow.`.
"""

import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any, final

from trioflow._text import one_line, show
from trioflow.errors import ConfigError
from trioflow.events import Event, EventType

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanKind, TracerProvider

__all__ = ("OtelObserver",)

_SCOPE = "trioflow"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
"""The buckets of durations, from a function call to a slow model."""

_NAMES: Mapping[str, str] = {
    "item_count": "trioflow.item.count",
    "worker_count": "trioflow.worker.count",
    "fail_fast": "trioflow.fail_fast",
    "items_processed": "trioflow.items.processed",
    "items_failed": "trioflow.items.failed",
    "items_unfinished": "trioflow.items.unfinished",
    "item_index": "trioflow.item.index",
    "items": "trioflow.items",
    "worker_id": "trioflow.worker.id",
    "step_index": "trioflow.step.index",
    "steps_completed": "trioflow.steps.completed",
    "step": "trioflow.step.count",
    "graph": "gen_ai.workflow.name",
    "node": "trioflow.graph.node",
    "iteration": "trioflow.graph.iteration",
    "iterations": "trioflow.graph.iterations",
    "visit_count": "trioflow.graph.visits",
    "entry_point": "trioflow.graph.entry_point",
    "exit_point": "trioflow.graph.exit_point",
    "paused": "trioflow.paused",
    "from": "trioflow.from",
    "to": "trioflow.to",
    "predicate_name": "trioflow.predicate",
    "route": "trioflow.route",
    "attempt": "trioflow.attempt",
    "attempts": "trioflow.attempts",
    "delay": "trioflow.delay",
    "status": "trioflow.status",
    "run_status": "trioflow.run.status",
    "size": "trioflow.checkpoint.size",
    "error_type": "error.type",
    "observer_failures": "trioflow.observer_failures",
    "hub": "trioflow.hub",
    "sender": "trioflow.sender",
    "message_id": "messaging.message.id",
    "message_type": "trioflow.message.type",
    "topic": "trioflow.topic",
}
"""The attribute names of event data; other data are left out."""

_AT_THE_START = frozenset({"graph", "hub", "item_index", "iteration", "message_id", "message_type", "node"})
_AT_THE_END = {
    key: name
    for key, name in _NAMES.items()
    if key not in _AT_THE_START | {"sender", "step_index", "topic", "worker_id"}
}
"""The attributes that are set at the end of a span."""

_MOST = 2**63
"""The limit of OpenTelemetry's 64-bit integers."""


@final
class OtelObserver:
    """Reports runs to OpenTelemetry as spans and metrics; needs the extra `otel`, and an SDK to export them.

    ::

        observer = OtelObserver()
        await process_parallel(questions, ask, observer=observer)  # spans in `ask` are children of the item's

    A run's span is a child of the span that is current where the run is started. Items, steps, nodes and the
    handler of a route are child spans; retries, transitions and custom events are span events. The handler of a
    message continues the sender's trace, by W3C headers in `message.headers`; given headers are not overwritten.
    Items, results, states and messages are never recorded. Not thread-safe.

    Args:
        tracer_provider: provides the tracer; None is the global provider.
        meter_provider: provides the meter; None is the global provider.

    Raises:
        ImportError: the extra `otel` is not installed.
        ConfigError: an argument is not a provider.
    """

    include_data = True
    """For the headers of messages."""

    def __init__(
        self, tracer_provider: "TracerProvider | None" = None, meter_provider: "MeterProvider | None" = None
    ) -> None:
        _check_provider("tracer_provider", tracer_provider, "get_tracer")
        _check_provider("meter_provider", meter_provider, "get_meter")
        try:
            from opentelemetry import context, metrics, propagate, trace  # noqa: PLC0415 - the extra
        except ImportError as error:
            message = "OtelObserver needs the extra 'otel': pip install 'trioflow[otel]'"
            raise ImportError(message) from error
        self._attach = context.attach
        self._inject = propagate.inject
        self._extract = propagate.extract
        self._trace = trace
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._meters = _Meters(metrics, meter_provider)
        self._silent = False
        self._runs: dict[tuple[str, str], list[_Run]] = {}
        self._messages: dict[tuple[EventType, str], Span] = {}
        self._takers: dict[EventType, Callable[[Event], None]] = self._choose_takers()
        self._beginners: dict[EventType, Callable[[Event], None]] = {
            EventType.ROUTE_EVALUATE: self._begin_routing,
            EventType.ROUTE_EXECUTE: self._begin_call,
            EventType.MESSAGE_SENT: self._begin_sending,
            EventType.MESSAGE_HANDLED: self._begin_handling,
        }

    def __repr__(self) -> str:
        return f"<OtelObserver: {self.open_spans} spans open>"

    def wants(self, type: EventType) -> bool:
        """Return whether events of items are needed; without an SDK they are not."""
        return not (self._silent and type is EventType.WORKER_START)

    @property
    def open_spans(self) -> int:
        """The number of spans started and not ended."""
        runs = [run for same in self._runs.values() for run in same]
        return len(runs) + sum(len(run.calls) for run in runs) + len(self._messages)

    def on_begin(self, event: Event) -> None:
        """Start the span of an operation that has an event only at its end."""
        begin = self._beginners.get(event.type)
        if begin is not None:
            begin(event)

    def on_event(self, event: Event) -> None:
        """Start or end a span, or add an event to one."""
        take = self._takers.get(event.type)
        if take is not None:
            take(event)

    def _choose_takers(self) -> dict[EventType, Callable[[Event], None]]:
        runs = (EventType.PARALLEL_START, EventType.CHAIN_START, EventType.GRAPH_START)
        run_ends = (EventType.PARALLEL_COMPLETE, EventType.CHAIN_COMPLETE, EventType.GRAPH_COMPLETE)
        calls = (EventType.WORKER_START, EventType.STEP_START, EventType.NODE_START)
        call_ends = (EventType.WORKER_COMPLETE, EventType.STEP_COMPLETE, EventType.NODE_COMPLETE)
        marks = (EventType.CHECKPOINT_LOAD, EventType.CHECKPOINT_RESUME, EventType.CHECKPOINT_SAVE)
        moves = (EventType.EDGE_TRANSITION, EventType.CYCLE_DETECTED)
        routing = (EventType.ROUTE_EVALUATE, EventType.ROUTE_SELECT, EventType.ROUTE_EXECUTE)
        return {
            **dict.fromkeys(runs, self._begin_run),
            **dict.fromkeys(run_ends, self._end_run),
            **dict.fromkeys(calls, self._begin_call),
            **dict.fromkeys(call_ends, self._end_call),
            **dict.fromkeys((*marks, *moves), self._mark_run),
            **dict.fromkeys(routing, self._end_part),
            EventType.TASK_RETRY: self._retry,
            EventType.CUSTOM: self._mark_current,
            EventType.MESSAGE_SENT: self._end_sending,
            EventType.MESSAGE_HANDLED: self._end_handling,
        }

    # Runs.

    def _begin_run(self, event: Event) -> None:
        name = event.source
        attributes: dict[str, Any] = {"trioflow.source": event.source, "trioflow.run.id": one_line(event.run_id)}
        if event.source == "graph":
            name = f"invoke_workflow {one_line(event.data['graph'])}"
            attributes["gen_ai.operation.name"] = "invoke_workflow"
        if event.parent is not None:
            attributes["trioflow.run.parent_id"] = one_line(event.parent)
        place = event.place
        if place is not None:
            attributes["code.function.name"] = f"{place.module}.{place.function}"
            attributes["code.file.path"] = place.file
            attributes["code.line.number"] = place.line
        span = self._tracer.start_span(name, attributes=attributes | _attributes(event.data))
        run = _Run(span, self._trace.set_span_in_context(span))
        self._runs.setdefault((event.source, event.run_id), []).append(run)
        self._silent = not self._meters.used and all(each.silent for same in self._runs.values() for each in same)

    def _end_run(self, event: Event) -> None:
        self._meters.run_ended(event)
        key = event.source, event.run_id
        same = self._runs.get(key)
        if not same:
            return
        run = same.pop()
        if not same:
            del self._runs[key]
        try:
            for call in run.calls.values():
                call.span.end()
        finally:
            self._end(run.span, event)

    def _mark_run(self, event: Event) -> None:
        for run in self._runs_of(event):
            run.span.add_event(event.type.value, _attributes(event.data))
            return

    def _mark_current(self, event: Event) -> None:
        span = self._trace.get_current_span()
        if span.is_recording():
            data = {str(name): _value(value) for name, value in event.data["data"].items()}
            span.add_event(one_line(event.data["name"]), data)

    def _runs_of(self, event: Event) -> "Iterator[_Run]":
        """Yield the runs that `event` may belong to, the likeliest first: several may share an id."""
        return reversed(self._runs.get((event.source, event.run_id), ()))

    # Calls: items, steps, nodes, the handler of a route.

    def _begin_call(self, event: Event) -> None:
        run = next(self._runs_of(event), None)
        if run is None or run.silent:
            return
        name, data = _CALLS[event.type], event.data
        if event.source == "graph":
            name = f"node {one_line(data['node'])}"
        worker = data.get("worker_id")
        if worker in run.calls:
            # It belongs to another run of this id: which of them ends first is unknown.
            run.calls.pop(worker).span.end()
        span = self._tracer.start_span(name, run.context, attributes=_attributes(data))
        run.calls[worker] = _Call(span, self._attach(self._trace.set_span_in_context(span)))

    def _end_call(self, event: Event) -> None:
        worker = event.data.get("worker_id")
        call = None
        for run in self._runs_of(event):
            call = run.calls.pop(worker, None)
            if call is not None:
                break
        if call is not None:
            # Before anything that may raise: the task's next work is outside the span.
            _detach(call.token)
            self._end(call.span, event)
        self._meters.call_ended(event)

    def _retry(self, event: Event) -> None:
        self._meters.retried(event)
        for run in self._runs_of(event):
            call = run.calls.get(event.data.get("worker_id"))
            if call is not None:
                call.span.add_event(event.type.value, _attributes(event.data))
                return

    # Routing: a run whose parts have no start event.

    def _begin_routing(self, event: Event) -> None:
        self._begin_run(event)
        self._begin_call(event)

    def _end_part(self, event: Event) -> None:
        if event.type is EventType.ROUTE_EXECUTE:
            self._end_call(event)
        elif event.type is EventType.ROUTE_EVALUATE:
            for run in self._runs_of(event):
                call = run.calls.pop(None, None)
                if call is not None:
                    _detach(call.token)
                    self._end(call.span, event)
        if event.type is EventType.ROUTE_EXECUTE or event.data["status"] != "ok":
            self._end_run(event)

    # Messages.

    def _begin_sending(self, event: Event) -> None:
        message = event.data["message"]
        headers, context = message.headers, None
        if message.recipient:
            name = f"send {one_line(message.recipient)}"
            attributes = _of_message(event, "send")
            span = self._tracer.start_span(name, kind=self._kind("PRODUCER"), attributes=attributes)
            self._messages[EventType.MESSAGE_SENT, message.id] = span
            context = self._trace.set_span_in_context(span)
        fresh: dict[str, str] = {}
        self._inject(fresh, context=context)
        if not fresh.keys() & headers.keys():
            headers.update(fresh)

    def _end_sending(self, event: Event) -> None:
        self._meters.sent(event)
        span = self._messages.pop((EventType.MESSAGE_SENT, event.data.get("message_id", "")), None)
        if span is None:
            # One message of a broadcast or publish; all have the headers of the first.
            span = self._spread(event)
        if span is not None:
            self._end(span, event)

    def _spread(self, event: Event) -> "Span | None":
        message = event.data.get("message")
        if message is None:
            return None
        return self._tracer.start_span(
            f"send {one_line(message.recipient)}",
            context=self._extract(message.headers),
            kind=self._kind("PRODUCER"),
            attributes=_of_message(event, "send"),
        )

    def _begin_handling(self, event: Event) -> None:
        message = event.data["message"]
        context = self._extract(message.headers)
        attributes = _of_message(event, "process") | {"gen_ai.agent.name": one_line(message.recipient)}
        name = f"process {one_line(message.recipient)}"
        span = self._tracer.start_span(name, context=context, kind=self._kind("CONSUMER"), attributes=attributes)
        self._messages[EventType.MESSAGE_HANDLED, message.id] = span
        # The context belongs to this message alone, so it need not be detached.
        self._attach(self._trace.set_span_in_context(span, context))

    def _end_handling(self, event: Event) -> None:
        span = self._messages.pop((EventType.MESSAGE_HANDLED, event.data.get("message_id", "")), None)
        if span is None:
            # It was discarded before a handler received it.
            return
        self._meters.handled(event)
        self._end(span, event)

    def _kind(self, name: str) -> "SpanKind":
        return self._trace.SpanKind[name]

    def _end(self, span: "Span", event: Event) -> None:
        data = event.data
        try:
            if span.is_recording():
                span.set_attributes(_attributes(data, _AT_THE_END))
                if data["status"] == "error":
                    span.set_status(self._trace.StatusCode.ERROR, one_line(str(data["error_message"])))
        finally:
            span.end()


_CALLS: Mapping[EventType, str] = {
    EventType.WORKER_START: "task",
    EventType.STEP_START: "step",
    EventType.NODE_START: "node",
    EventType.ROUTE_EVALUATE: "route",
    EventType.ROUTE_EXECUTE: "branch",
}


@final
class _Run:
    """A running run, and its current calls by worker."""

    __slots__ = ("calls", "context", "silent", "span")

    def __init__(self, span: "Span", context: "Context") -> None:
        self.span = span
        self.context = context
        # Without an SDK, and without a remote trace to propagate, its calls need no spans.
        self.silent = not span.is_recording() and not span.get_span_context().is_valid
        self.calls: dict[int | None, _Call] = {}


class _Call(typing.NamedTuple):
    """A running call."""

    span: "Span"
    token: "Token[Context]"


@final
class _Meters:
    """The instruments."""

    def __init__(self, api: Any, provider: "MeterProvider | None") -> None:
        self._api = api
        self._provider = provider
        meter = api.get_meter(_SCOPE, meter_provider=provider)

        def seconds(name: str, what: str) -> Any:
            return meter.create_histogram(
                name, unit="s", description=what, explicit_bucket_boundaries_advisory=_SECONDS
            )

        self._runs = seconds("trioflow.run.duration", "How long runs took")
        self._calls = seconds("trioflow.call.duration", "How long items, steps, nodes and routes took")
        self._handled = seconds("messaging.process.duration", "How long handlers took")
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Messages sent")
        self._retries = meter.create_counter("trioflow.retries", "{retry}", "Attempts with another after them")

    @property
    def used(self) -> bool:
        """Whether an SDK may record them."""
        provider = self._api.get_meter_provider() if self._provider is None else self._provider
        return type(provider).__module__.split(".")[:2] != ["opentelemetry", "metrics"]

    def run_ended(self, event: Event) -> None:
        self._runs.record(event.data["duration"], _outcome(event))

    def call_ended(self, event: Event) -> None:
        self._calls.record(event.data["duration"], _outcome(event))

    def retried(self, event: Event) -> None:
        self._retries.add(1, {"trioflow.source": event.source, "error.type": str(event.data.get("error_type"))})

    def sent(self, event: Event) -> None:
        self._sent.add(1, _messaging(event, "send"))

    def handled(self, event: Event) -> None:
        self._handled.record(event.data["duration"], _messaging(event, "process"))


def _outcome(event: Event) -> dict[str, Any]:
    data = event.data
    attributes = {"trioflow.source": event.source, "trioflow.status": data["status"]}
    if data["error_type"] is not None:
        attributes["error.type"] = data["error_type"]
    if event.source == "graph" and "graph" in data:
        attributes["gen_ai.workflow.name"] = one_line(data["graph"])
    return attributes


def _messaging(event: Event, operation: str) -> dict[str, Any]:
    attributes = {
        "messaging.system": "trioflow",
        "messaging.operation.name": operation,
        "messaging.destination.name": one_line(str(event.data.get("recipient"))),
    }
    error = event.data.get("error_type")
    return attributes if error is None else attributes | {"error.type": error}


def _of_message(event: Event, operation: str) -> dict[str, Any]:
    more = {"messaging.operation.type": operation}
    return _messaging(event, operation) | more | _attributes(event.data)


def _attributes(data: Mapping[str, Any], names: Mapping[str, str] = _NAMES) -> dict[str, Any]:
    """Return the data of an event under their attribute names; the user's own data have none."""
    return {
        names[key]: value if type(value) is int and value < _MOST else _value(value)
        for key, value in data.items()
        if key in names and value is not None
    }


def _value(value: object) -> str | bool | int | float:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        return str(value)
    return value if isinstance(value, bool | int | float) else show(value)


def _detach(token: "Token[Context]") -> None:
    """Detach the context, if it is still current in this task; OpenTelemetry's `detach` logs an error if not."""
    with suppress(ValueError):
        token.var.reset(token)


def _check_provider(field: str, provider: object, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ConfigError.refusing(field, provider, f"an OpenTelemetry provider, with a method {method}")

"""Runs beside the rest of a system: spans that nest, names that others know, context through messages, metrics."""

import builtins
import gzip
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from trioflow import (
    ChainConfig,
    ConditionalError,
    ConfigError,
    Event,
    EventType,
    GraphConfig,
    HubConfig,
    MultiObserver,
    OtelObserver,
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    Routes,
    State,
    StateGraph,
    branches_node,
    chain_node,
    current_run,
    open_hub,
    open_parallel,
    process_chain,
    process_conditional,
    process_parallel,
    register_observer,
)
from trioflow.observers import registry

TWO = ParallelConfig(max_workers=2, fail_fast=False, raise_if_all_failed=False)


@pytest.fixture(autouse=True)
def nothing_logged_by_opentelemetry(caplog):
    """It logs what goes wrong in it, such as a detach in another context, instead of raising."""
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        yield
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


class Telemetry:
    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.provider.get_tracer("the user's")
        self.observer = OtelObserver(self.provider, self.meters)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span

    def parent(self, span):
        return next((each for each in self.spans if span.parent and each.context.span_id == span.parent.span_id), None)

    def line(self, span):
        """The names from `span` up to the outermost one."""
        names = []
        while span is not None:
            names.append(span.name)
            span = self.parent(span)
        return names

    def metrics(self):
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = metric
        return found

    def points(self, name):
        return {tuple(sorted(point.attributes.items())): point for point in self.metrics()[name].data.data_points}


@pytest.fixture
def otel():
    telemetry = Telemetry()
    yield telemetry
    telemetry.meters.shutdown()
    telemetry.provider.shutdown()


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setattr(registry, "_observers", {})
    return lambda observer: register_observer("otel", observer)


def inside(otel, name="inside"):
    """A piece of an instrumented client."""
    with otel.tracer.start_as_current_span(name):
        pass


# What is a child of what.


async def test_what_the_processor_opens_is_a_child_of_its_item(otel):
    async def work(item):
        inside(otel, f"before {item}")
        await trio.lowlevel.checkpoint()
        inside(otel, f"after {item}")
        return item

    with otel.tracer.start_as_current_span("request"):
        await process_parallel(range(20), work, config=TWO, observer=otel.observer, run_id="nightly")
    for item in range(20):
        for name in (f"before {item}", f"after {item}"):
            span = otel.one(name)
            assert otel.line(span) == [name, "task", "parallel", "request"]
            assert otel.parent(span).attributes["trioflow.item.index"] == item
    run = otel.one("parallel")
    assert run.attributes["trioflow.run.id"] == "nightly"
    assert run.attributes["trioflow.item.count"] == 20
    assert run.attributes["trioflow.items.processed"] == 20
    assert run.attributes["code.function.name"].endswith("its_item")
    assert run.status.status_code is StatusCode.UNSET


async def test_tasks_that_the_processor_starts_are_inside_too(otel):
    async def deeper():
        await trio.lowlevel.checkpoint()
        inside(otel)

    async def work(item):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deeper)
            nursery.start_soon(trio.to_thread.run_sync, inside, otel, "in a thread")

    await process_parallel([1], work, observer=otel.observer)
    assert otel.line(otel.one("inside")) == ["inside", "task", "parallel"]
    assert otel.line(otel.one("in a thread")) == ["in a thread", "task", "parallel"]


async def test_a_context_that_a_processor_leaves_attached_is_not_that_of_the_next_item(otel):
    async def work(item):
        inside(otel, f"inside {item}")
        context.attach(trace.set_span_in_context(otel.tracer.start_span("left open")))
        await trio.lowlevel.checkpoint()

    await process_parallel(range(4), work, config=ParallelConfig(max_workers=1), observer=otel.observer)
    for item in range(4):
        assert otel.line(otel.one(f"inside {item}")) == [f"inside {item}", "task", "parallel"]


async def test_after_a_run_the_current_span_is_what_it_was(otel):
    async def work(item):
        await trio.lowlevel.checkpoint()

    async def step(item, state):
        return state

    before = trace.get_current_span()
    await process_parallel([1], work, observer=otel.observer)
    await process_chain([1], 0, step, observer=otel.observer)
    assert trace.get_current_span() is before


async def test_a_stream_is_a_child_of_where_it_was_opened(otel):
    async def work(item):
        inside(otel)

    with otel.tracer.start_as_current_span("request"):
        async with open_parallel([1], work, observer=otel.observer) as run:
            async for _ in run:
                pass
    assert otel.line(otel.one("inside")) == ["inside", "task", "parallel", "request"]


async def test_steps_of_a_chain(otel):
    async def step(item, state):
        inside(otel, f"inside {item}")
        await trio.lowlevel.checkpoint()
        inside(otel, f"still inside {item}")
        return state + item

    with otel.tracer.start_as_current_span("request"):
        await process_chain([1, 2, 3], 0, step, observer=otel.observer)
    for item in (1, 2, 3):
        for name in (f"inside {item}", f"still inside {item}"):
            span = otel.one(name)
            assert otel.line(span) == [name, "step", "chain", "request"]
            assert otel.parent(span).attributes["trioflow.step.index"] == item - 1
    assert otel.one("chain").attributes["trioflow.steps.completed"] == 3


async def test_a_step_costs_no_turn_of_the_scheduler_for_its_span(otel):
    async def step(item, state):
        turns.append(item)
        return state

    async def count():
        while True:
            turns.append("turn")
            await trio.lowlevel.checkpoint()

    turns = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        await process_chain(range(6), 0, step, observer=otel.observer)
        nursery.cancel_scope.cancel()
    first, last = turns.index(0), turns.index(5)
    assert "turn" not in turns[first:last]


async def test_nodes_of_a_graph_and_the_runs_in_them(otel, named):
    named(otel.observer)

    async def plan(state):
        inside(otel, "in plan")
        await trio.lowlevel.checkpoint()
        inside(otel, "in plan still")
        return state.set("planned", True)

    async def left(state):
        inside(otel, "in left")
        return state.set("left", 1)

    async def right(state):
        inside(otel, "in right")
        return state.set("right", 1)

    async def append(item, state):
        inside(otel, f"in step {item}")
        return state.set("last", item)

    graph = StateGraph(GraphConfig(name="review", observer="otel"))
    graph.add_node("plan", plan)
    graph.add_node("both", branches_node({"left": left, "right": right}))
    graph.add_node("chain", chain_node(append, items=[1, 2]))
    graph.add_edge("plan", "both")
    graph.add_edge("both", "chain")
    graph.set_entry_point("plan")
    graph.set_exit_point("chain")
    with otel.tracer.start_as_current_span("request"):
        await graph.execute(State())
    run = ["invoke_workflow review", "request"]
    for name in ("in plan", "in plan still"):
        assert otel.line(otel.one(name)) == [name, "node plan", *run]
    for name in ("in left", "in right"):
        assert otel.line(otel.one(name)) == [name, "task", "parallel", "node both", *run]
    for name in ("in step 1", "in step 2"):
        assert otel.line(otel.one(name)) == [name, "step", "chain", "node chain", *run]
    span = otel.one("invoke_workflow review")
    assert span.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert span.attributes["gen_ai.workflow.name"] == "review"
    assert span.attributes["trioflow.graph.exit_point"] == "chain"
    assert [event.attributes["trioflow.to"] for event in span.events if event.name == "edge.transition"] == ["both", "chain"]
    assert otel.one("node plan").attributes["trioflow.graph.node"] == "plan"


async def test_the_parts_of_a_routing(otel):
    async def choose(state):
        inside(otel, "in the predicate")
        return "greet"

    async def greet(state):
        inside(otel, "in the handler")
        await trio.lowlevel.checkpoint()
        inside(otel, "in the handler still")
        return state

    with otel.tracer.start_as_current_span("request"):
        await process_conditional("Ada", choose, Routes({"greet": greet}), observer=otel.observer)
    assert otel.line(otel.one("in the predicate")) == ["in the predicate", "route", "conditional", "request"]
    for name in ("in the handler", "in the handler still"):
        assert otel.line(otel.one(name)) == [name, "branch", "conditional", "request"]
    assert otel.one("branch").attributes["trioflow.route"] == "greet"
    assert otel.one("conditional").attributes["trioflow.route"] == "greet"


async def test_a_routing_that_finds_no_route_ends_its_spans(otel):
    async def greet(state):
        return state

    with pytest.raises(ConditionalError):
        await process_conditional("Ada", lambda _: "great", Routes({"greet": greet}), observer=otel.observer)
    span = otel.one("conditional")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "LookupError"
    assert otel.named("branch") == []


# How things end.


async def test_a_failure_has_its_type_and_message_and_no_control_characters(otel):
    async def work(item):
        raise ValueError("a\nb\ud800" + "x" * 1_000_000)

    await process_parallel([1], work, config=TWO, observer=otel.observer)
    span = otel.one("task")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description.startswith("a\\nb\\ud800xxx")
    assert len(span.status.description) <= 200
    assert span.attributes["error.type"] == "ValueError"
    assert otel.one("parallel").status.status_code is StatusCode.UNSET


async def test_a_run_that_fails_is_an_error(otel):
    async def work(item):
        raise ValueError("no")

    with pytest.raises(ParallelError):
        await process_parallel([1], work, observer=otel.observer)
    assert otel.one("parallel").status.status_code is StatusCode.ERROR
    assert otel.one("parallel").attributes["error.type"] == "ParallelError"


async def test_a_step_and_a_node_that_fail_end_their_spans(otel, named):
    named(otel.observer)

    async def step(item, state):
        raise ValueError("no")

    async def node(state):
        raise ValueError("no")

    with pytest.raises(Exception, match="step"):
        await process_chain([1], 0, step, observer=otel.observer)
    graph = StateGraph(GraphConfig(name="g", observer="otel"))
    graph.add_node("n", node)
    graph.set_entry_point("n")
    graph.set_exit_point("n")
    with pytest.raises(Exception, match="node"):
        await graph.execute(State())
    for name in ("step", "chain", "node n", "invoke_workflow g"):
        assert otel.one(name).status.status_code is StatusCode.ERROR
    assert otel.one("step").attributes["error.type"] == otel.one("node n").attributes["error.type"] == "ValueError"


async def test_cancelled_is_no_error(otel, autojump_clock):
    async def work(item):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        await process_parallel([1, 2], work, config=TWO, observer=otel.observer)
    assert len(otel.spans) == 3
    for span in otel.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes["trioflow.status"] == "cancelled"


async def test_retries_are_events_of_the_span_and_counted(otel, autojump_clock):
    async def work(item):
        if current_run().attempt < 3:
            raise ValueError("again")
        inside(otel)

    retry = RetryConfig(max_attempts=3, initial_delay=1.0, jitter=False)
    config = ParallelConfig(max_workers=1, retry=retry)
    await process_parallel([1], work, config=config, observer=otel.observer)
    span = otel.one("task")
    assert [event.name for event in span.events] == ["task.retry", "task.retry"]
    assert span.events[0].attributes["error.type"] == "ValueError"
    assert span.events[0].attributes["trioflow.delay"] == 1.0
    assert span.attributes["trioflow.attempts"] == 3
    assert otel.line(otel.one("inside")) == ["inside", "task", "parallel"]
    assert sum(point.value for point in otel.points("trioflow.retries").values()) == 2


async def test_custom_events_go_to_the_span_that_is_current(otel):
    async def work(item):
        current_run().emit("token", text="he\nllo", index=3, deep={"a": 1})

    await process_parallel([1], work, observer=otel.observer)
    (event,) = otel.one("task").events
    assert event.name == "token"
    assert event.attributes == {"text": "he\\nllo", "index": 3, "deep": "{'a': 1}"}


async def test_items_states_and_results_stay_out(otel):
    async def work(item):
        await trio.lowlevel.checkpoint()
        return "secret result"

    async def step(item, state):
        return "secret state"

    await process_parallel(["secret item"], work, observer=otel.observer)
    await process_chain(["secret item"], "secret", step, observer=otel.observer)
    assert "secret" not in "".join(span.to_json() for span in otel.spans)


# Messages.


async def test_a_handler_continues_the_trace_of_its_sender(otel):
    async def bob(message):
        inside(otel, "in the handler")
        await trio.lowlevel.checkpoint()
        inside(otel, "in the handler still")
        return message.headers

    async with open_hub(HubConfig(name="office"), observer=otel.observer) as hub:
        hub.register("bob", bob)
        with otel.tracer.start_as_current_span("request"):
            answer = await hub.request("ada", "bob", headers={"own": "x"})
    for name in ("in the handler", "in the handler still"):
        assert otel.line(otel.one(name)) == [name, "process bob", "send bob", "request"]
    sent, handled = otel.one("send bob"), otel.one("process bob")
    assert sent.kind is SpanKind.PRODUCER
    assert handled.kind is SpanKind.CONSUMER
    assert sent.attributes["messaging.operation.type"] == "send"
    assert handled.attributes["messaging.operation.type"] == "process"
    for span in (sent, handled):
        assert span.attributes["messaging.system"] == "trioflow"
        assert span.attributes["messaging.destination.name"] == "bob"
        assert span.attributes["messaging.message.id"]
    assert handled.attributes["gen_ai.agent.name"] == "bob"
    assert answer.data["own"] == "x"
    assert answer.data["traceparent"].split("-")[2] == f"{sent.context.span_id:016x}"


async def test_messages_that_wait_keep_their_own_trace(otel):
    async def bob(message):
        inside(otel, f"handling {message.data}")
        await trio.lowlevel.checkpoint()

    async def ask(number):
        with otel.tracer.start_as_current_span(f"request {number}"):
            await hub.send("ada", "bob", number)

    config = HubConfig(buffer=1, max_handlers=1)
    async with open_hub(config, observer=otel.observer) as hub:
        hub.register("bob", bob)
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(ask, number)
    for number in range(6):
        line = [f"handling {number}", "process bob", "send bob", f"request {number}"]
        assert otel.line(otel.one(f"handling {number}")) == line


async def test_what_is_broadcast_is_a_part_of_the_senders_span(otel):
    async def handle(message):
        inside(otel, f"in {message.recipient}")

    async with open_hub(observer=otel.observer) as hub:
        hub.register("bob", handle)
        hub.register("eve", handle)
        hub.subscribe("eve", "news")
        with otel.tracer.start_as_current_span("request"):
            await hub.broadcast("ada")
    assert otel.line(otel.one("in bob")) == ["in bob", "process bob", "request"]
    assert otel.line(otel.one("in eve")) == ["in eve", "process eve", "request"]
    assert otel.line(otel.one("send bob")) == ["send bob", "request"]


async def test_baggage_and_a_given_traceparent_travel(otel):
    seen = []

    async def bob(message):
        seen.append((baggage.get_baggage("tenant"), trace.get_current_span().get_span_context().trace_id))

    given = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    async with open_hub(observer=otel.observer) as hub:
        hub.register("bob", bob)
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        await hub.send("ada", "bob")
        await hub.send("ada", "bob", headers=given)
        context.detach(token)
    assert seen[0][0] == "acme"
    assert seen[1][1] == int("a" * 32, 16)


async def test_without_this_observer_messages_have_the_headers_that_they_were_given():
    async def bob(message):
        return message.headers

    async with open_hub(observer=RecordingObserver()) as hub:
        hub.register("bob", bob)
        assert (await hub.request("ada", "bob", headers={"a": "b"})).data == {"a": "b"}
        assert (await hub.request("ada", "bob")).data == {}


async def test_a_message_that_is_refused_or_never_handled_leaves_no_span_open(otel):
    async def bob(message):
        await trio.sleep_forever()

    config = HubConfig(buffer=1, max_handlers=1, overflow="drop")
    with trio.CancelScope() as scope:
        async with open_hub(config, observer=otel.observer) as hub:
            hub.register("bob", bob)
            for _ in range(3):
                await hub.send("ada", "bob")
            scope.cancel()
    assert len(otel.named("send bob")) == 3
    refused = [span for span in otel.named("send bob") if span.status.status_code is StatusCode.ERROR]
    assert [span.attributes["error.type"] for span in refused] == ["MailboxFullError"]
    assert len(otel.named("process bob")) <= 2
    assert otel.observer.open_spans == 0


async def test_a_handler_that_fails(otel):
    async def bob(message):
        raise ValueError("no")

    async with open_hub(observer=otel.observer) as hub:
        hub.register("bob", bob)
        await hub.send("ada", "bob")
    assert otel.one("process bob").status.status_code is StatusCode.ERROR
    (point,) = otel.metrics()["messaging.process.duration"].data.data_points
    assert point.attributes["error.type"] == "ValueError"


# Metrics.


async def test_counters_and_histograms(otel):
    async def work(item):
        await trio.lowlevel.checkpoint()
        if item == 3:
            raise ValueError("no")

    await process_parallel(range(10), work, config=TWO, observer=otel.observer)
    calls = otel.points("trioflow.call.duration")
    ok = (("trioflow.source", "parallel"), ("trioflow.status", "ok"))
    failed = (("error.type", "ValueError"), ("trioflow.source", "parallel"), ("trioflow.status", "error"))
    assert {key: point.count for key, point in calls.items()} == {ok: 9, failed: 1}
    assert calls[ok].explicit_bounds[0] < 0.1
    assert otel.points("trioflow.run.duration")[ok].count == 1
    assert otel.metrics()["trioflow.call.duration"].unit == "s"


async def test_messages_are_counted_by_their_agent(otel):
    async def bob(message):
        pass

    async with open_hub(observer=otel.observer) as hub:
        hub.register("bob", bob)
        for _ in range(3):
            await hub.send("ada", "bob")
    (sent,) = otel.metrics()["messaging.client.sent.messages"].data.data_points
    (handled,) = otel.metrics()["messaging.process.duration"].data.data_points
    assert (sent.value, handled.count) == (3, 3)
    assert sent.attributes["messaging.destination.name"] == "bob"
    assert handled.attributes["messaging.operation.name"] == "process"


# What can go wrong.


async def test_an_sdk_that_raises_fails_no_run_and_is_warned_about_once(log):
    class Broken(NoOpTracerProvider):
        def get_tracer(self, *args, **kwargs):
            return self

        def start_span(self, *args, **kwargs):
            raise OSError("no collector")

    async def work(item):
        await trio.lowlevel.checkpoint()
        return item

    heard = RecordingObserver()
    both = MultiObserver(heard, OtelObserver(Broken(), MeterProvider()))
    result = await process_parallel(range(5), work, observer=both)
    assert result.results == list(range(5))
    assert len(log.at("WARNING")) == 1
    assert "OtelObserver" in log.at("WARNING")[0]


async def test_spans_that_raise_leave_no_context_behind(otel, log):
    class Broken(trace.NonRecordingSpan):
        def end(self, end_time=None):
            raise OSError("no collector")

    class Provider(NoOpTracerProvider):
        def get_tracer(self, *args, **kwargs):
            return self

        def start_span(self, *args, **kwargs):
            return Broken(trace.INVALID_SPAN_CONTEXT)

    async def work(item):
        current.append(trace.get_current_span())

    current = []
    before = trace.get_current_span()
    observer = OtelObserver(Provider(), otel.meters)
    await process_parallel(range(3), work, config=ParallelConfig(max_workers=1), observer=observer)
    assert len(current) == 3
    assert trace.get_current_span() is before
    assert observer.open_spans == 0


async def test_two_runs_of_one_name_at_once_end_all_their_spans(otel):
    async def work(item):
        await trio.lowlevel.checkpoint()

    async def run(number):
        await process_parallel(range(number), work, config=TWO, observer=otel.observer, run_id="nightly")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 5)
        nursery.start_soon(run, 9)
    assert len(otel.named("parallel")) == 2
    assert len(otel.named("task")) == 14
    assert otel.observer.open_spans == 0


def test_events_without_a_beginning_are_no_trouble(otel):
    done = {"status": "ok", "error": False, "error_type": None, "error_message": None, "duration": 0.0}
    for type in EventType:
        source = "hub" if type.value.startswith("message") else "parallel"
        data = {**done, "worker_id": 0, "item_index": 0, "node": "n", "name": "x", "data": {}, "recipient": "bob"}
        otel.observer.on_event(Event(type, 0.0, source, "r", data))
    assert "OtelObserver" in repr(otel.observer)


@pytest.mark.parametrize("field", ["tracer_provider", "meter_provider"])
def test_what_is_no_provider_is_refused(field):
    with pytest.raises(ConfigError, match=field):
        OtelObserver(**{field: 3})


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"trioflow\[otel\]"):
        OtelObserver()


async def test_without_an_sdk_nothing_happens(named):
    async def work(item):
        return item

    assert (await process_parallel([1], work, observer=OtelObserver())).results == [1]
    named(OtelObserver())

    async def step(item, state):
        return state + item

    assert (await process_chain([1], 0, step, config=ChainConfig(observer="otel"))).final == 1
    assert propagate.extract({}) == {}


async def test_without_an_sdk_items_are_left_out_until_there_is_one(otel):
    async def work(item):
        await trio.lowlevel.checkpoint()
        if item == 3:
            raise ValueError("no")

    bare = OtelObserver(NoOpTracerProvider(), NoOpMeterProvider())
    assert bare.wants(EventType.WORKER_START)
    await process_parallel(range(5), work, config=TWO, observer=bare)
    assert not bare.wants(EventType.WORKER_START)
    assert bare.wants(EventType.STEP_START)
    with otel.tracer.start_as_current_span("request"):
        seen = []

        async def look(item):
            seen.append(bare.wants(EventType.WORKER_START))

        await process_parallel([1], look, observer=bare)
    assert seen == [True]
    await process_parallel(range(5), work, config=TWO, observer=otel.observer)
    assert len(otel.named("task")) == 5


async def test_a_trace_that_is_not_sampled_travels_on():
    headers = []

    async def work(item):
        carrier = {}
        propagate.inject(carrier)
        headers.append(carrier["traceparent"])

    provider = TracerProvider(sampler=ALWAYS_OFF)
    try:
        await process_parallel([1], work, observer=OtelObserver(provider, NoOpMeterProvider()))
    finally:
        provider.shutdown()
    assert not int(headers[0].split("-")[3], 16) & 1


# What begins without an event.


async def test_parts_of_routings_and_messages_are_announced_to_who_asks():
    class Asking:
        def __init__(self):
            self.seen = []

        def on_begin(self, event):
            self.seen.append(("begins", event.type, event.data))

        def on_event(self, event):
            self.seen.append(("ends", event.type, event.data))

    async def greet(state):
        return state

    asking, heard = Asking(), RecordingObserver()
    await process_conditional("Ada", lambda _: "greet", Routes({"greet": greet}), observer=MultiObserver(heard, asking))
    parts = (EventType.ROUTE_EVALUATE, EventType.ROUTE_SELECT, EventType.ROUTE_EXECUTE)
    assert [(what, type) for what, type, _ in asking.seen] == [(what, type) for type in parts for what in ("begins", "ends")]
    assert [event.type for event in heard.events] == list(parts)
    assert asking.seen[-2][2] == {"route": "greet"}

    asking.seen.clear()
    async with open_hub(observer=asking) as hub:
        hub.register("bob", greet)
        await hub.send("ada", "bob", "a secret")
    order = [(what, type.value) for what, type, _ in asking.seen]
    assert order[0] == ("begins", "message.sent")
    assert sorted(order[1:]) == [("begins", "message.handled"), ("ends", "message.handled"), ("ends", "message.sent")]
    assert "secret" not in str(asking.seen)


async def test_an_on_begin_that_raises_is_warned_about_and_fails_nothing(log):
    class Raising:
        def on_begin(self, event):
            raise ValueError("no")

        def on_event(self, event):
            pass

    async def bob(message):
        return message.data

    async with open_hub(observer=Raising()) as hub:
        hub.register("bob", bob)
        assert (await hub.request("ada", "bob", 1)).data == 1
        assert (await hub.request("ada", "bob", 2)).data == 2
    assert len(log.at("WARNING")) == 1


# Over the wire.


async def test_a_collector_on_loopback_gets_the_spans():
    bodies = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    async def work(item):
        await trio.lowlevel.checkpoint()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    provider = TracerProvider(resource=Resource({"service.name": "nightly"}))
    try:
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{server.server_port}/v1/traces", timeout=10)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        await process_parallel(range(3), work, observer=OtelObserver(provider, NoOpMeterProvider()))
        await trio.to_thread.run_sync(provider.force_flush)
    finally:
        await trio.to_thread.run_sync(provider.shutdown)
        server.shutdown()
        thread.join()
        server.server_close()
    spans = []
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            assert resource.resource.attributes[0].value.string_value == "nightly"
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    (run,) = [span for span in spans if span.name == "parallel"]
    items = [span for span in spans if span.name == "task"]
    assert [span.parent_span_id for span in items] == [run.span_id] * 3

"""Runs beside the rest of a system: OpenTelemetry over the wire, to a collector that this script serves itself.

    python examples/telemetry.py

A fan-out asks an agent of a hub about each of its items, and what the agent's handler opens is a span of its own.
The spans and metrics go out as OTLP over HTTP, as they would to Jaeger, Tempo or any other collector; the one here
is a Trio server of a few lines, and prints what arrives as a tree. Needs the groups `tests` and `demo`.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from gzip import decompress

import h11
import trio
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from trioflow import (
    Message,
    OtelObserver,
    ParallelConfig,
    RetryConfig,
    open_hub,
    process_parallel,
)

QUESTIONS = ("What is a nursery?", "What is a checkpoint?", "Who cancels?")


class Collector:
    """What has arrived: spans, and the names of metrics."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[str] = set()

    def take(self, target: str, body: bytes) -> None:
        """Take one request of an exporter."""
        if target == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in of_resource.scope_spans:
                    self.spans += scope.spans
        elif target == "/v1/metrics":
            for resource_metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric_scope in resource_metrics.scope_metrics:
                    self.metrics |= {metric.name for metric in metric_scope.metrics}

    def tree(self) -> Iterable[str]:
        """Yield a line for each span, those inside it below it."""
        inside: dict[bytes, list[Span]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda each: each.start_time_unix_nano):
            inside[span.parent_span_id].append(span)
        stack = [(0, span) for span in reversed(inside[b""])]
        while stack:
            depth, span = stack.pop()
            milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            told = "".join(f", {event.name}" for event in span.events)
            yield f"{'  ' * depth}{span.name} {milliseconds:.0f} ms{told}"
            stack += [(depth + 1, each) for each in reversed(inside[span.span_id])]


@asynccontextmanager
async def open_collector(collector: Collector) -> AsyncIterator[str]:
    """Serve OTLP over HTTP on loopback while the block lasts; yields the base URL.

    Cancellation: passes through; the server ends with the block.
    """

    async def answer(stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        target, body = "", b""
        async with stream:
            while connection.our_state is not h11.MUST_CLOSE:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    target, body = event.target.decode(), b""
                    zipped = (b"content-encoding", b"gzip") in list(event.headers)
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    collector.take(target, decompress(body) if zipped else body)
                    reply = h11.Response(status_code=200, headers=[("content-length", "0")])
                    parts = (reply, h11.EndOfMessage())
                    await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))
                    connection.start_next_cycle()
                else:
                    return

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serve = await nursery.start(trio.serve_listeners, answer, listeners)
        port = serve[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel(reason="the block of the collector was left")


async def work(observer: OtelObserver, tracer_provider: TracerProvider) -> None:
    """Ask an agent about each question; the first answer to the second one is lost.

    Cancellation: passes through.
    """
    tracer = tracer_provider.get_tracer("telemetry")
    lost: set[str] = set()

    async def look_up(message: Message) -> str:
        with tracer.start_as_current_span("look up"):
            await trio.sleep(0.02)
        return f"{message.data} Read on."

    async with open_hub(observer=observer) as hub:
        hub.register("librarian", look_up)

        async def ask(question: str) -> object:
            answer = await hub.request("reader", "librarian", question)
            if question == QUESTIONS[1] and question not in lost:
                lost.add(question)
                raise OSError("the answer was lost")
            return answer.data

        config = ParallelConfig(max_workers=2, retry=RetryConfig(initial_delay=0.01))
        await process_parallel(QUESTIONS, ask, config=config, observer=observer, run_id="nightly")


async def main(say: Callable[[str], object] = print) -> Collector:
    """Run it all, and print what the collector has got.

    Cancellation: passes through.
    """
    collector = Collector()
    async with open_collector(collector) as url:
        resource = Resource({"service.name": "nightly"})
        tracer_provider = TracerProvider(resource=resource)
        tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/v1/metrics"))
        meter_provider = MeterProvider(metric_readers=[reader], resource=resource)
        try:
            await work(OtelObserver(tracer_provider, meter_provider), tracer_provider)
        finally:
            # Both wait for the collector, which is a task of this program.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(tracer_provider.shutdown)
                await trio.to_thread.run_sync(meter_provider.shutdown)
    for line in collector.tree():
        say(line)
    say(f"metrics: {', '.join(sorted(collector.metrics))}")
    return collector


if __name__ == "__main__":
    trio.run(main)

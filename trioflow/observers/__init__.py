"""The observers that ship, and the registry of observers by name."""

from trioflow.observers.logging import LoggingObserver
from trioflow.observers.loguru import LoguruObserver
from trioflow.observers.metrics import MetricsObserver, MetricsSnapshot, SourceMetrics
from trioflow.observers.multi import MultiObserver
from trioflow.observers.noop import NoopObserver
from trioflow.observers.otel import OtelObserver
from trioflow.observers.progress import ProgressObserver
from trioflow.observers.recording import RecordingObserver
from trioflow.observers.registry import get_observer, register_observer
from trioflow.observers.stream import EventStream
from trioflow.observers.trace import TraceObserver

__all__ = (
    "EventStream",
    "LoggingObserver",
    "LoguruObserver",
    "MetricsObserver",
    "MetricsSnapshot",
    "MultiObserver",
    "NoopObserver",
    "OtelObserver",
    "ProgressObserver",
    "RecordingObserver",
    "SourceMetrics",
    "TraceObserver",
    "get_observer",
    "register_observer",
)

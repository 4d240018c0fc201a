# What is where, lowest layer first (docs/design/tour.md walks the same road):
#
#   _text          user text made one safe, bounded log line
#   outcomes       what became of each item, and of a run
#   errors         what is raised: the TrioflowError tree
#   config/        what a run is told: structs, checks, files
#   events         what a run tells: Event, EventType, Observer
#   observers/     who listens, and the registry of names
#   policies/      one call made safer: timeout, retry, rate
#   _runtime/      the rules of every pattern: calls, groups, emitter, live values
#   workflows/     many calls: parallel
"""Structured fan-out for agent services on Trio, with an exact account of what succeeded, failed and why."""

from trioflow.config import (
    ChainConfig,
    CheckpointConfig,
    ConditionalConfig,
    GraphConfig,
    HubConfig,
    ParallelConfig,
    RetryConfig,
    load_config,
    merge,
    to_schema,
)
from trioflow.errors import ConfigError, ParallelError, TrioflowError
from trioflow.events import Event, EventType, Observer
from trioflow.observers import (
    LoguruObserver,
    MultiObserver,
    NoopObserver,
    RecordingObserver,
    get_observer,
    register_observer,
)
from trioflow.outcomes import (
    ErrorCategory,
    ErrorReport,
    LiveValue,
    ParallelResult,
    Progress,
    TaskError,
    TaskOutcome,
)
from trioflow.policies import RateLimiter, with_rate_limit, with_retry, with_timeout
from trioflow.workflows import ParallelRun, open_parallel, process_parallel

__all__ = (
    "ChainConfig",
    "CheckpointConfig",
    "ConditionalConfig",
    "ConfigError",
    "ErrorCategory",
    "ErrorReport",
    "Event",
    "EventType",
    "GraphConfig",
    "HubConfig",
    "LiveValue",
    "LoguruObserver",
    "MultiObserver",
    "NoopObserver",
    "Observer",
    "ParallelConfig",
    "ParallelError",
    "ParallelResult",
    "ParallelRun",
    "Progress",
    "RateLimiter",
    "RecordingObserver",
    "RetryConfig",
    "TaskError",
    "TaskOutcome",
    "TrioflowError",
    "get_observer",
    "load_config",
    "merge",
    "open_parallel",
    "process_parallel",
    "register_observer",
    "to_schema",
    "with_rate_limit",
    "with_retry",
    "with_timeout",
)

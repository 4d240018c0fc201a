# What is where, lowest layer first (docs/design/tour.md walks the same road):
#
#   _text          user text made one safe, bounded log line
#   outcomes       what became of each item, and of a run
#   errors/        what is raised: the TrioflowError tree
#   config/        what a run is told: structs, checks, files
#   events         what a run tells: Event, EventType, Observer
#   observers/     who listens, and the registry of names
#   checkpoint/    what outlives the process: stores, codec, sessions
#   policies/      one call made safer: timeout, retry, rate
#   _runtime/      the rules of every pattern: calls, groups, emitter, live values
#   workflows/     many calls: parallel, chain, conditional
#   testing/       what users test with: a conformance suite for stores
#   cli            the command line: `trioflow runs`, `python -m trioflow`
#   __main__       the same
#   graph/         calls that decide what comes next: state, edges, graph, nodes of patterns
"""Structured workflows for agent services on Trio, with an exact account of what succeeded, failed and why."""

from trioflow.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    CheckpointStore,
    MemoryStore,
    RunInfo,
    get_checkpoint_store,
    register_checkpoint_store,
)
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
from trioflow.errors import (
    ChainError,
    CheckpointConflictError,
    CheckpointCorruptError,
    CheckpointEncodeError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConditionalError,
    ConfigError,
    ExecutionError,
    GraphError,
    ParallelError,
    TrioflowError,
)
from trioflow.events import Event, EventType, Observer
from trioflow.graph import (
    GraphRun,
    State,
    StateGraph,
    all_of,
    always,
    any_of,
    chain_node,
    conditional_node,
    graph_node,
    key_equals,
    key_exists,
    not_,
    parallel_node,
    pause,
)
from trioflow.observers import (
    LoguruObserver,
    MultiObserver,
    NoopObserver,
    RecordingObserver,
    get_observer,
    register_observer,
)
from trioflow.outcomes import (
    ChainResult,
    ErrorCategory,
    ErrorReport,
    GraphResult,
    GraphStep,
    LiveValue,
    ParallelResult,
    Progress,
    TaskError,
    TaskOutcome,
)
from trioflow.policies import RateLimiter, with_rate_limit, with_retry, with_timeout
from trioflow.workflows import (
    ParallelRun,
    Routes,
    open_parallel,
    process_chain,
    process_conditional,
    process_parallel,
)

__all__ = (
    "ChainConfig",
    "ChainError",
    "ChainResult",
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointConflictError",
    "CheckpointCorruptError",
    "CheckpointEncodeError",
    "CheckpointError",
    "CheckpointInfo",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointStore",
    "CheckpointStoreError",
    "ConditionalConfig",
    "ConditionalError",
    "ConfigError",
    "ErrorCategory",
    "ErrorReport",
    "Event",
    "EventType",
    "ExecutionError",
    "GraphConfig",
    "GraphError",
    "GraphResult",
    "GraphRun",
    "GraphStep",
    "HubConfig",
    "LiveValue",
    "LoguruObserver",
    "MemoryStore",
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
    "Routes",
    "RunInfo",
    "State",
    "StateGraph",
    "TaskError",
    "TaskOutcome",
    "TrioflowError",
    "all_of",
    "always",
    "any_of",
    "chain_node",
    "conditional_node",
    "get_checkpoint_store",
    "get_observer",
    "graph_node",
    "key_equals",
    "key_exists",
    "load_config",
    "merge",
    "not_",
    "open_parallel",
    "parallel_node",
    "pause",
    "process_chain",
    "process_conditional",
    "process_parallel",
    "register_checkpoint_store",
    "register_observer",
    "to_schema",
    "with_rate_limit",
    "with_retry",
    "with_timeout",
)

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
#   _runtime/      the rules of every pattern: calls, errors, emitter, live values
#   _durable/      how a run is kept: step by step, item by item
#   hub/           agents that talk: messages, mailboxes, handlers
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
    AgentGoneError,
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
    HandlerError,
    HubClosedError,
    HubError,
    MailboxFullError,
    ParallelError,
    RequestTimeoutError,
    TrioflowError,
    UnknownAgentError,
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
from trioflow.hub import Hub, HubMetrics, Message, MessageType, Priority, gather_requests, open_hub
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
    "AgentGoneError",
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
    "HandlerError",
    "Hub",
    "HubClosedError",
    "HubConfig",
    "HubError",
    "HubMetrics",
    "LiveValue",
    "LoguruObserver",
    "MailboxFullError",
    "MemoryStore",
    "Message",
    "MessageType",
    "MultiObserver",
    "NoopObserver",
    "Observer",
    "ParallelConfig",
    "ParallelError",
    "ParallelResult",
    "ParallelRun",
    "Priority",
    "Progress",
    "RateLimiter",
    "RecordingObserver",
    "RequestTimeoutError",
    "RetryConfig",
    "Routes",
    "RunInfo",
    "State",
    "StateGraph",
    "TaskError",
    "TaskOutcome",
    "TrioflowError",
    "UnknownAgentError",
    "all_of",
    "always",
    "any_of",
    "chain_node",
    "conditional_node",
    "gather_requests",
    "get_checkpoint_store",
    "get_observer",
    "graph_node",
    "key_equals",
    "key_exists",
    "load_config",
    "merge",
    "not_",
    "open_hub",
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

# The layers, lowest first (docs/design/tour.md takes them in the same order):
#
#   _text          user text as one safe, bounded log line
#   outcomes       the outcomes of items, and the results of runs
#   _live          values that a task can wait on
#   errors/        exceptions: the TrioflowError tree
#   config/        settings: structs, checks, files
#   events         what a run emits: Event, EventType, Observer
#   observers/     what receives events, and the registry of names
#   checkpoint/    persistence: stores, codec, sessions
#   policies/      wrappers around one call: timeout, retry, rate, concurrency, budget
#   _runtime/      the rules that every pattern shares: calls, errors, emitter, blocks, contexts
#   _durable/      durable runs: step by step, item by item
#   executors/     calls outside the event loop: any concurrent.futures.Executor, a process per call, Dask
#   hub/           agents: messages, mailboxes, handlers
#   workflows/     the patterns: parallel, chain, conditional
#   graph/         state graphs: state, edges, graph, pattern nodes
#   service/       runs submitted to a store and executed by any process that serves it
#   testing/       for users' tests: scripted processors, faulty stores, a conformance suite for stores
#   ui/            the web page of runs
#   cli/           the command line: `trioflow runs`, `graph`, `trace`, `ui`
#   __main__       `python -m trioflow`
"""Structured workflows for agent services on Trio that report exactly what succeeded, what failed and why."""

from typing import TYPE_CHECKING

from trioflow._durable.waits import durable_sleep, wait_for_signal
from trioflow._runtime.context import RunContext, current_run
from trioflow.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    CheckpointStore,
    MemoryStore,
    RunInfo,
    ServiceStore,
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
    ServiceConfig,
    load_config,
    merge,
    to_schema,
)
from trioflow.errors import (
    AgentGoneError,
    BudgetExceededError,
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
    RemoteError,
    RequestTimeoutError,
    RunCancelledError,
    TransferError,
    TrioflowError,
    UnknownAgentError,
)
from trioflow.events import Event, EventType, Observer, Place
from trioflow.executors import dask_executor, on_executor, on_process
from trioflow.graph import (
    GraphRun,
    State,
    StateGraph,
    all_of,
    always,
    any_of,
    branches_node,
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
    EventStream,
    LoggingObserver,
    LoguruObserver,
    MetricsObserver,
    MetricsSnapshot,
    MultiObserver,
    NoopObserver,
    OtelObserver,
    ProgressObserver,
    RecordingObserver,
    SourceMetrics,
    TraceObserver,
    get_observer,
    register_observer,
)
from trioflow.outcomes import (
    BranchesResult,
    ChainResult,
    ErrorCategory,
    ErrorReport,
    FailedItems,
    GraphResult,
    GraphStep,
    Indexes,
    LiveValue,
    ParallelResult,
    Progress,
    TaskError,
    TaskOutcome,
)
from trioflow.policies import (
    Budget,
    BudgetState,
    RateLimiter,
    with_budget,
    with_concurrency_limit,
    with_rate_limit,
    with_retry,
    with_timeout,
)
from trioflow.service import Service, ServiceClient, open_service, service_client
from trioflow.workflows import (
    ParallelRun,
    Routes,
    WorkQueue,
    open_parallel,
    process_chain,
    process_conditional,
    process_parallel,
)

__all__ = (
    "AgentGoneError",
    "BranchesResult",
    "Budget",
    "BudgetExceededError",
    "BudgetState",
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
    "EventStream",
    "EventType",
    "ExecutionError",
    "FailedItems",
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
    "Indexes",
    "LiveValue",
    "LoggingObserver",
    "LoguruObserver",
    "MailboxFullError",
    "MemoryStore",
    "Message",
    "MessageType",
    "MetricsObserver",
    "MetricsSnapshot",
    "MultiObserver",
    "NoopObserver",
    "Observer",
    "OtelObserver",
    "ParallelConfig",
    "ParallelError",
    "ParallelResult",
    "ParallelRun",
    "Place",
    "Priority",
    "Progress",
    "ProgressObserver",
    "RateLimiter",
    "RecordingObserver",
    "RemoteError",
    "RequestTimeoutError",
    "RetryConfig",
    "Routes",
    "RunCancelledError",
    "RunContext",
    "RunInfo",
    "Service",
    "ServiceClient",
    "ServiceConfig",
    "ServiceStore",
    "SourceMetrics",
    "State",
    "StateGraph",
    "TaskError",
    "TaskOutcome",
    "TraceObserver",
    "TransferError",
    "TrioflowError",
    "UnknownAgentError",
    "WorkQueue",
    "all_of",
    "always",
    "any_of",
    "branches_node",
    "chain_node",
    "conditional_node",
    "current_run",
    "dask_executor",
    "durable_sleep",
    "gather_requests",
    "get_checkpoint_store",
    "get_observer",
    "graph_node",
    "key_equals",
    "key_exists",
    "load_config",
    "merge",
    "not_",
    "on_executor",
    "on_process",
    "open_hub",
    "open_parallel",
    "open_service",
    "parallel_node",
    "pause",
    "process_chain",
    "process_conditional",
    "process_parallel",
    "register_checkpoint_store",
    "register_observer",
    "service_client",
    "to_schema",
    "wait_for_signal",
    "with_budget",
    "with_concurrency_limit",
    "with_rate_limit",
    "with_retry",
    "with_timeout",
)

__version__: str

if not TYPE_CHECKING:  # a checker that saw it would take any name for one of ours

    def __getattr__(name: str) -> str:
        """Return the version of the installed package, which is looked up when it is asked for."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - an import pays nothing for it

        try:
            return version(__name__)
        except PackageNotFoundError as error:
            raise AttributeError(f"{__name__} is not installed: its version is unknown", name=name) from error

"""The exceptions of trioflow: one small tree under `TrioflowError`.

Each error that a user may want to catch has its own type. A message says what happened, to which item, step, node
or run, and what to do about it, if anything can be done.
"""

from trioflow.errors.budget import BudgetExceededError
from trioflow.errors.checkpoints import (
    CheckpointConflictError,
    CheckpointCorruptError,
    CheckpointEncodeError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
)
from trioflow.errors.executors import TransferError
from trioflow.errors.hub import (
    AgentGoneError,
    HandlerError,
    HubClosedError,
    HubError,
    MailboxFullError,
    RequestTimeoutError,
    UnknownAgentError,
)
from trioflow.errors.parallel import ParallelError
from trioflow.errors.patterns import ChainError, ConditionalError, ExecutionError, GraphError
from trioflow.errors.service import RemoteError, RunCancelledError
from trioflow.errors.tree import ConfigError, TrioflowError, leaves
from trioflow.outcomes import ErrorCategory, ErrorReport

__all__ = (
    "AgentGoneError",
    "BudgetExceededError",
    "ChainError",
    "CheckpointConflictError",
    "CheckpointCorruptError",
    "CheckpointEncodeError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointStoreError",
    "ConditionalError",
    "ConfigError",
    "ErrorCategory",
    "ErrorReport",
    "ExecutionError",
    "GraphError",
    "HandlerError",
    "HubClosedError",
    "HubError",
    "MailboxFullError",
    "ParallelError",
    "RemoteError",
    "RequestTimeoutError",
    "RunCancelledError",
    "TransferError",
    "TrioflowError",
    "UnknownAgentError",
    "leaves",
)

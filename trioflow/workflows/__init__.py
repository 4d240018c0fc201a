"""Many calls: fanned out under bounded workers, one after the other, or one chosen by a predicate."""

from trioflow.workflows._queue import WorkQueue
from trioflow.workflows.chain import process_chain
from trioflow.workflows.conditional import Routes, process_conditional
from trioflow.workflows.parallel import ParallelRun, open_parallel, process_parallel

__all__ = (
    "ParallelRun",
    "Routes",
    "WorkQueue",
    "open_parallel",
    "process_chain",
    "process_conditional",
    "process_parallel",
)

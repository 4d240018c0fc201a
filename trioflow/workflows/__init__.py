"""Many calls: fanned out under bounded workers."""

from trioflow.workflows.parallel import ParallelRun, open_parallel, process_parallel

__all__ = ("ParallelRun", "open_parallel", "process_parallel")

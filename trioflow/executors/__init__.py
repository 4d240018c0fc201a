"""Calls outside the event loop: in threads, in processes, on a cluster."""

from trioflow.executors.dask import dask_executor
from trioflow.executors.pools import on_executor
from trioflow.executors.processes import on_process

__all__ = ("dask_executor", "on_executor", "on_process")

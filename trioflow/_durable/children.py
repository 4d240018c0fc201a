"""Runs inside runs: what a run that calls user code says to the runs that are begun in it.

A graph's runner is a `Host`: it sets `host` in the task in which its nodes are called, and what a pattern node
starts asks it for a place of its own.
"""

from contextvars import ContextVar
from typing import Protocol

from trioflow.events import Observer


class Host(Protocol):
    """A run in whose nodes other runs are begun."""

    run_id: str
    """The run's id."""
    observer: Observer
    """Who hears of the run."""


host: ContextVar[Host] = ContextVar("trioflow_host")
"""Set in the task in which nodes are called, and so in all tasks that they start."""

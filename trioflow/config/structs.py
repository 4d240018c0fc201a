"""The settings of runs, graphs, hubs and services: fields, defaults, and what each field allows."""

from typing import Literal

import msgspec

from trioflow._text import without_secrets
from trioflow.config import checks
from trioflow.errors import ConfigError

__all__ = (
    "ChainConfig",
    "CheckpointConfig",
    "ConditionalConfig",
    "GraphConfig",
    "HubConfig",
    "ParallelConfig",
    "RetryConfig",
    "ServiceConfig",
    "Settings",
)

_DEFAULT_STORE = "memory"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs below: frozen, keyword-only, no unknown keys."""


class RetryConfig(Settings, frozen=True, kw_only=True):
    """When and how often a failed attempt is repeated.

    The delay before attempt n + 1 is `initial_delay × multiplier ** (n - 1)`, at most `max_delay`.
    """

    max_attempts: int = 3
    """Attempts in all, the first included; 1 or more."""
    initial_delay: float = 0.1
    """Seconds before the second attempt."""
    max_delay: float = 30.0
    """Seconds that no delay exceeds."""
    multiplier: float = 2.0
    """Factor from one delay to the next."""
    jitter: bool = True
    """Whether a delay is drawn uniformly from between half of it and all of it."""
    total_timeout: float | None = None
    """Seconds from the first attempt; no attempt or delay starts that would exceed it. None is no limit."""

    def __post_init__(self) -> None:
        checks.check_count("max_attempts", self.max_attempts, minimum=1, allowed="1 or more")
        checks.check_seconds("initial_delay", self.initial_delay, optional=False)
        checks.check_seconds("max_delay", self.max_delay, optional=False)
        checks.check_number("multiplier", self.multiplier, allowed="a positive number")
        checks.check_flag("jitter", self.jitter)
        checks.check_seconds("total_timeout", self.total_timeout)


class CheckpointConfig(Settings, frozen=True, kw_only=True):
    """Where and how often a run is saved."""

    store: str = _DEFAULT_STORE
    """A registered name, or the URL of a store."""
    interval: int | None = None
    """Steps between two saves of a graph or chain; 0 is off.

    None is every step if a store is given, or named here; otherwise off.
    """
    preserve: bool = False
    """Whether to keep a run that completed with nothing left to do; by default it is deleted."""
    flush_interval: float = 0.05
    """Seconds within which a parallel run writes its finished items."""

    def __post_init__(self) -> None:
        checks.check_text("store", self.store, "the name or URL of a checkpoint store")
        if self.interval is not None:
            allowed = "0 (off) or more, or None (every step where store is set)"
            checks.check_count("interval", self.interval, minimum=0, allowed=allowed)
        checks.check_flag("preserve", self.preserve)
        checks.check_seconds("flush_interval", self.flush_interval, optional=False)

    def __repr__(self) -> str:
        return super().__repr__().replace(repr(self.store), repr(without_secrets(self.store)))


class ParallelConfig(Settings, frozen=True, kw_only=True):
    """Settings of a parallel run: its concurrency, time limits, rate, and what it does with failures."""

    max_workers: int = 0
    """Workers; 0 is auto: twice the usable CPUs, at most `worker_cap` and the number of items."""
    worker_cap: int = 16
    """The most workers that auto starts; 1 or more."""
    fail_fast: bool = True
    """Whether the first failure ends the run."""
    max_failures: int | None = None
    """Failures that a run without `fail_fast` tolerates: the next one ends it. 1 or more; None is any number."""
    buffer: int = 0
    """Items that may be buffered besides those in the workers; 0 is as many as workers."""
    raise_if_all_failed: bool = True
    """Whether a run without `fail_fast` raises if every item failed."""
    timeout: float | None = None
    """Seconds for the whole run; None is no limit."""
    task_timeout: float | None = None
    """Seconds for one attempt at one item; None is no limit."""
    max_per_second: float | None = None
    """Attempts that may start in a second, evenly spaced; None is no limit."""
    burst: float = 1
    """Attempts that may start at once after a pause, if `max_per_second` is set; a positive number."""
    retry: RetryConfig | None = None
    """How failed attempts are retried; None is not at all."""
    checkpoint: CheckpointConfig | None = None
    """Where a durable run is saved; None is nowhere."""
    observer: str = "loguru"
    """Name of the registered observer that receives the run's events."""

    def __post_init__(self) -> None:
        checks.check_count("max_workers", self.max_workers, minimum=0, allowed="0 (auto) or more")
        checks.check_count("worker_cap", self.worker_cap, minimum=1, allowed="1 or more")
        checks.check_flag("fail_fast", self.fail_fast)
        if self.max_failures is not None:
            allowed = "1 or more, or None (any number)"
            checks.check_count("max_failures", self.max_failures, minimum=1, allowed=allowed)
        checks.check_count(
            "buffer", self.buffer, minimum=0, allowed="0 (as many as workers) or more"
        )
        checks.check_flag("raise_if_all_failed", self.raise_if_all_failed)
        checks.check_seconds("timeout", self.timeout)
        checks.check_seconds("task_timeout", self.task_timeout)
        if self.max_per_second is not None:
            checks.check_number(
                "max_per_second",
                self.max_per_second,
                allowed="a positive number or None (no limit)",
            )
        checks.check_number("burst", self.burst, allowed="a positive number")
        checks.check_instance("retry", self.retry, RetryConfig, optional=True)
        checks.check_instance("checkpoint", self.checkpoint, CheckpointConfig, optional=True)
        _check_observer(self.observer)


class ChainConfig(Settings, frozen=True, kw_only=True):
    """Settings of a chain."""

    capture_intermediate_states: bool = False
    """Whether the result holds the state before the first step and after each one."""
    task_timeout: float | None = None
    """Seconds for one attempt at one step; None is no limit."""
    retry: RetryConfig | None = None
    """How failed attempts are retried; None is not at all."""
    checkpoint: CheckpointConfig | None = None
    """Where the chain is saved; None is nowhere."""
    observer: str = "loguru"
    """Name of the registered observer that receives the chain's events."""

    def __post_init__(self) -> None:
        checks.check_flag("capture_intermediate_states", self.capture_intermediate_states)
        checks.check_seconds("task_timeout", self.task_timeout)
        checks.check_instance("retry", self.retry, RetryConfig, optional=True)
        checks.check_instance("checkpoint", self.checkpoint, CheckpointConfig, optional=True)
        _check_observer(self.observer)


class ConditionalConfig(Settings, frozen=True, kw_only=True):
    """Settings of conditional routing."""

    observer: str = "loguru"
    """Name of the registered observer that receives the routing's events."""

    def __post_init__(self) -> None:
        _check_observer(self.observer)


class GraphConfig(Settings, frozen=True, kw_only=True):
    """Settings of a state graph."""

    name: str
    """The graph's name, which its checkpoints and events carry."""
    max_iterations: int = 1000
    """Node attempts that a run may take, failed ones included; 1 or more."""
    task_timeout: float | None = None
    """Seconds for one attempt at one node; None is no limit."""
    retry: RetryConfig | None = None
    """How failed attempts are retried; None is not at all."""
    checkpoint: CheckpointConfig = msgspec.field(default_factory=CheckpointConfig)
    """Where and how often the graph is saved."""
    observer: str = "loguru"
    """Name of the registered observer that receives the run's events."""

    def __post_init__(self) -> None:
        checks.check_text("name", self.name)
        checks.check_count("max_iterations", self.max_iterations, minimum=1, allowed="1 or more")
        checks.check_seconds("task_timeout", self.task_timeout)
        checks.check_instance("retry", self.retry, RetryConfig, optional=True)
        checks.check_instance("checkpoint", self.checkpoint, CheckpointConfig)
        _check_observer(self.observer)


class HubConfig(Settings, frozen=True, kw_only=True):
    """Settings of a hub."""

    name: str = "default"
    """The hub's name, which its messages carry."""
    buffer: int = 100
    """Messages that one mailbox holds; 1 or more."""
    overflow: Literal["wait", "drop", "error"] = "wait"
    """What a sender to a full mailbox does: wait for room, drop the message, or raise `MailboxFullError`."""
    timeout: float = 30.0
    """Seconds that a request waits for its answer."""
    drain_timeout: float = 30.0
    """Seconds that leaving the hub's block waits for queued and running messages."""
    max_handlers: int = 16
    """Messages that one agent handles concurrently; 1 keeps strict order."""
    handler_timeout: float | None = None
    """Seconds for one call of a handler; None is no limit."""
    observer: str = "loguru"
    """Name of the registered observer that receives the messages' events."""

    def __post_init__(self) -> None:
        checks.check_text("name", self.name)
        checks.check_count("buffer", self.buffer, minimum=1, allowed="1 or more")
        checks.check_choice("overflow", self.overflow, ("wait", "drop", "error"))
        checks.check_seconds("timeout", self.timeout, optional=False)
        checks.check_seconds("drain_timeout", self.drain_timeout, optional=False)
        checks.check_count("max_handlers", self.max_handlers, minimum=1, allowed="1 or more")
        checks.check_seconds("handler_timeout", self.handler_timeout)
        _check_observer(self.observer)


class ServiceConfig(Settings, frozen=True, kw_only=True):
    """Settings of a process that serves the runs submitted to its store."""

    max_runs: int = 16
    """Runs that this process executes concurrently; 1 or more."""
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    """Runs of a graph that all processes together execute concurrently, by the graph's name; each 1 or more."""
    lease: float = 30.0
    """Seconds after which a lease on a run expires unless this process renews it; at least three times `poll`.

    A process that dies, hangs or blocks its event loop for longer loses its runs to another.
    """
    poll: float = 0.5
    """Seconds between two polls of a store that does not notify."""
    park_after: float = 1.0
    """Seconds after which a waiting run leaves memory."""
    drain_timeout: float = 30.0
    """Seconds that leaving the service's block waits for running steps."""
    observer: str = "loguru"
    """Name of the registered observer that receives the events of runs whose graph has none of its own."""

    def __post_init__(self) -> None:
        checks.check_count("max_runs", self.max_runs, minimum=1, allowed="1 or more")
        checks.check_instance("limits", self.limits, dict)
        for name, limit in self.limits.items():
            checks.check_text("limits", name, "graph names with a number each")
            checks.check_count(f"limits[{name!r}]", limit, minimum=1, allowed="1 or more")
        for field in ("lease", "poll", "park_after", "drain_timeout"):
            checks.check_seconds(field, getattr(self, field), optional=False)
        if self.lease < 3 * self.poll:
            allowed = f"at least three times poll ({self.poll:g} s), or a live process would lose its runs"
            raise ConfigError.refusing("lease", self.lease, allowed)
        _check_observer(self.observer)


def _check_observer(name: object) -> None:
    checks.check_text("observer", name, "the name of a registered observer")

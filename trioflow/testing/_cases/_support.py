"""Support for the cases: running one, building a checkpoint, and failing."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

import trio

from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore

ODD_NAMES = (
    "a'b\"c`d",
    "a\0b",
    "a\nb\r\n",
    "../../etc/passwd",
    "'; DROP TABLE runs; --",
    "Zoë/実行/🚀",
    "abc\u202edef",
    "  a  ",
    "%s %00 %n {0}",
    "x" * 2_000,
    "RUN",
    "r_n%",
    "\u00e9",
    "e\u0301",
)

TIME_LIMIT = 60.0
"""Seconds that one case may take."""


class StoreCases:
    """Test methods for the stores of `open_store`."""

    durable: ClassVar[bool] = False
    """Whether a second `open_store()` must open the same storage; otherwise it may."""

    def open_store(self) -> AbstractAsyncContextManager[CheckpointStore]:
        """Return a context manager that opens an empty store of the kind to be tested."""
        raise NotImplementedError("override open_store: return a context manager that opens an empty store")


C = TypeVar("C", bound=StoreCases)


def case(test: Callable[[C, CheckpointStore], Awaitable[None]]) -> Callable[[C], None]:
    """Return a synchronous method that runs `test` with an empty store under `trio.run`: no plugin is needed."""

    def run(self: C) -> None:
        async def main() -> None:
            with trio.fail_after(TIME_LIMIT):
                async with self.open_store() as store:
                    await test(self, store)

        trio.run(main)

    # Not `functools.wraps`: pytest would follow it, and look for a fixture named `store`.
    run.__name__ = run.__qualname__ = getattr(test, "__name__", "case")
    run.__doc__ = test.__doc__
    return run


def checkpoint(run_id: str = "run", step: int = 1, **changes: Any) -> Checkpoint:
    """Return a checkpoint with these `changes`."""
    fields: dict[str, Any] = {
        "graph": "graph",
        "node": "a",
        "next_node": "b",
        "iterations": step,
        "state": b"state %d" % step,
        "status": "running",
        "pause": None,
        "created_at": 1_700_000_000.25 + step,
    }
    return sealed(Checkpoint(run_id=run_id, step=step, **{**fields, **changes}))


async def refused(call: Awaitable[object], kind: type[Exception]) -> None:
    """Fail unless `call` raises an error of this type.

    Cancellation: passes through.
    """
    try:
        await call
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def check(condition: object, what: str) -> None:
    """Fail with the message `what` unless the condition holds."""
    if not condition:
        raise AssertionError(what)

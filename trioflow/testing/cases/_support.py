"""What the cases are written with: a checkpoint, and how a case fails."""

from collections.abc import Awaitable
from typing import Any

from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.protocol import Checkpoint

__all__ = ("ODD_NAMES", "check", "checkpoint", "refused")

ODD_NAMES = {
    "quotes": "a'b\"c`d",
    "nul": "a\0b",
    "newline": "a\nb\r\n",
    "path": "../../etc/passwd",
    "sql": "'; DROP TABLE runs; --",
    "unicode": "Zoë/実行/🚀",
    "bidi": "abc\u202edef",
    "blanks": "  a  ",
    "percent": "%s %00 %n {0}",
    "long": "x" * 2_000,
    "case": "RUN",
    "wildcard": "r_n%",
}


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
    """Fail unless `call` raises this kind of error.

    Cancellation: passes through.
    """
    try:
        await call
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def check(condition: object, what: str) -> None:
    """Fail, and say `what`, unless the condition holds."""
    if not condition:
        raise AssertionError(what)

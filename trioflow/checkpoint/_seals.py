"""The seals of the SQLite store's rows: digests of all columns of a row and of the id of its run.

They detect damage; they do not protect against someone who writes the file. Rows of older schemas, without parents
and kinds of runs, keep their seals.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from trioflow._text import quote
from trioflow.errors import CheckpointCorruptError

__all__ = ("INFO", "REST", "RunRow", "damaged", "seal_info", "seal_item", "seal_run", "seal_step", "seals_of_step")

INFO = ("step", "graph", "node", "next_node", "iterations", "status", "created_at", "kind", "forked_from")
REST = ("version", "digest", "pause")
_KIND = INFO.index("kind")


class RunRow(NamedTuple):
    """The row of a run, without its seal."""

    number: int | None
    run_id: str
    epoch: int
    last_step: int | None
    items: int
    created_at: float
    updated_at: float
    parent: int | None


def seal_run(run: RunRow) -> bytes:
    """Return the seal of the row of a run."""
    # A run without a parent has the seal of the older schema.
    return _seal(*run[1:7], *(() if run.parent is None else (run.parent,)))


def seal_info(run_id: str, info: Sequence[Any]) -> bytes:
    """Return the seal of a step without its state, for lists and histories."""
    return _seal(run_id, *_sealed_part(info))


def seal_step(run_id: str, info: Sequence[Any], rest: Sequence[Any], state: Any) -> bytes:
    """Return the seal of all of a step."""
    return seals_of_step(run_id, info, rest, state)[1]


def seals_of_step(
    run_id: str, info: Sequence[Any], rest: Sequence[Any], state: Any
) -> tuple[bytes, bytes]:
    """Return `seal_info` and `seal_step`: the second begins with the values of the first."""
    hasher = hashlib.blake2b(digest_size=16)
    _add(hasher, run_id, *_sealed_part(info))
    first = hasher.digest()
    _add(hasher, *rest, state)
    return first, hasher.digest()


def _sealed_part(info: Sequence[Any]) -> Sequence[Any]:
    # A step of form 1 has neither a kind nor an origin, and keeps its seals.
    return info[:_KIND] if info[_KIND] is None else info


def _seal(*values: object) -> bytes:
    """Return the digest of a row."""
    hasher = hashlib.blake2b(digest_size=16)
    _add(hasher, *values)
    return hasher.digest()


def _add(hasher: "hashlib.blake2b", *values: object) -> None:
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        hasher.update(f"{type(value).__name__}{len(data)}:".encode())
        hasher.update(data)


def seal_item(run_id: str, key: str, value: bytes) -> bytes:
    """Return the seal of an item."""
    names = b"%d:%b%d:%b" % (len(run_id), run_id.encode(), len(key), key.encode())
    return hashlib.blake2b(names + value, digest_size=16).digest()


def damaged(run_id: str, what: str) -> CheckpointCorruptError:
    """Return the error for a damaged run."""
    message = f"run {quote(run_id)} is damaged: {what}; restore a copy of the store, or delete the run"
    return CheckpointCorruptError(message, run_id=run_id)

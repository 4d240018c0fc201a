"""A store with injected faults, to test how a program handles them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, final

import trio

from trioflow._text import list_known, quote
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, CheckpointStore, RunInfo
from trioflow.checkpoint.registry import check_store
from trioflow.config.checks import check_count, check_seconds
from trioflow.errors import CheckpointStoreError, ConfigError

__all__ = ("FaultyStore",)

V = TypeVar("V")

_METHODS = ("aclose", "claim", "delete", "history", "list_runs", "load", "load_items", "save", "save_items")
_LOSABLE = ("aclose", "delete", "save", "save_items")
"""The methods that return nothing, so that a lost call goes unnoticed."""

Calls = Mapping[str, int | Collection[int]]
"""Call numbers by method, counted from 1."""


@final
class FaultyStore:
    """A `CheckpointStore` that wraps another one, and injects faults at chosen calls.

    ::

        store = FaultyStore(MemoryStore(), fail={"save_items": 2}, hang={"load": (1, 3)})

    Args:
        store: the wrapped store; the caller closes it.
        fail: these calls do nothing and raise `error`.
        hang: these calls do nothing for `patience` seconds, by Trio's clock, and then raise.
        lose: these calls do nothing and return normally; only `save`, `save_items`, `delete` and `aclose`.
        error: what a failing call raises; None is a `CheckpointStoreError` that names the call.
        patience: how long a call hangs, in seconds.

    Attributes:
        calls: the names of the methods called, in order.

    Raises:
        ConfigError: an argument is invalid.
    """

    bounds_waiting: ClassVar[bool] = True
    """A hanging call is not timed out by wall time, because a test's clock may jump."""

    def __init__(
        self,
        store: CheckpointStore,
        *,
        fail: Calls | None = None,
        hang: Calls | None = None,
        lose: Calls | None = None,
        error: Exception | None = None,
        patience: float = 60.0,
    ) -> None:
        check_store("store", store)
        check_seconds("patience", patience, optional=False)
        self._store = store
        self._fail = _numbered("fail", fail, _METHODS)
        self._hang = _numbered("hang", hang, _METHODS)
        self._lose = _numbered("lose", lose, _LOSABLE)
        self._error = error
        self._patience = patience
        self._counts: Counter[str] = Counter()
        self.calls: list[str] = []

    def __repr__(self) -> str:
        return f"<FaultyStore around {self._store!r}: {len(self.calls)} calls>"

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """See `CheckpointStore.claim`.

        Cancellation: as for the wrapped store.
        """
        return await self._do("claim", lambda: self._store.claim(run_id, parent=parent))

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: as for the wrapped store.
        """
        await self._do("save", lambda: self._store.save(checkpoint, epoch))

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: as for the wrapped store.
        """
        return await self._do("load", lambda: self._store.load(run_id, step))

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: as for the wrapped store.
        """
        return await self._do("history", lambda: self._store.history(run_id))

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: as for the wrapped store.
        """
        return await self._do("list_runs", lambda: self._store.list_runs(after=after, limit=limit))

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: as for the wrapped store.
        """
        await self._do("delete", lambda: self._store.delete(run_id, epoch))

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: as for the wrapped store.
        """
        await self._do("save_items", lambda: self._store.save_items(run_id, epoch, batch))

    async def load_items(self, run_id: str) -> Mapping[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: as for the wrapped store.
        """
        return await self._do("load_items", lambda: self._store.load_items(run_id))

    async def aclose(self) -> None:
        """See `CheckpointStore.aclose`.

        Cancellation: as for the wrapped store.
        """
        await self._do("aclose", self._store.aclose)

    async def _do(self, method: str, work: Callable[[], Awaitable[V]]) -> V:
        self.calls.append(method)
        self._counts[method] += 1
        number = self._counts[method]
        if number in self._hang.get(method, ()):
            await trio.sleep(self._patience)
            message = f"call {number} of {method} hung for {self._patience:g} s, as scripted"
            raise CheckpointStoreError(message)
        if number in self._fail.get(method, ()):
            await trio.lowlevel.checkpoint()
            raise self._error or CheckpointStoreError(f"call {number} of {method} failed, as scripted")
        if number in self._lose.get(method, ()):
            await trio.lowlevel.checkpoint()
            lost: Any = None
            return lost  # type: ignore[no-any-return]  # only of methods that return None
        return await work()


def _numbered(field: str, calls: Calls | None, methods: Sequence[str]) -> dict[str, frozenset[int]]:
    numbered = {}
    for method, numbers in (calls or {}).items():
        if method not in methods:
            raise ConfigError(f"{field} does not take {quote(method)} {list_known(method, methods)}", field=field)
        chosen = frozenset([numbers] if isinstance(numbers, int) else numbers)
        for number in chosen:
            check_count(f"{field}[{method!r}]", number, minimum=1, allowed="1 (the first call) or more")
        numbered[method] = chosen
    return numbered

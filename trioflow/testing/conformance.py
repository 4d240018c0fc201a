"""What every `CheckpointStore` must do, as test cases: subclass, say how a store is opened, and run them.

::

    class TestMyStore(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            async with MyStore(...) as store:
                yield store

Each case is an async function of a fresh store, made a plain test method by `_case`: it runs under `trio.run`, so
that no plugin is needed. Where a rule must hold for several values, there is one method a value.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.testing.cases import all_cases

__all__ = ("CheckpointStoreConformance",)

TIME_LIMIT = 60.0
"""Seconds that one case may take."""


def _case(check: Callable[[Any], Awaitable[None]]) -> Callable[["CheckpointStoreConformance"], None]:
    def test(self: "CheckpointStoreConformance") -> None:
        async def main() -> None:
            with trio.fail_after(TIME_LIMIT):
                async with self.open_store() as store:
                    await check(store)

        trio.run(main)

    test.__doc__ = check.__doc__
    return test


class CheckpointStoreConformance:
    """Test cases for a store: its epochs, its checkpoints, its items, and what it does with odd values.

    Subclass it under a name that the test runner collects, and override `open_store`.
    """

    def open_store(self) -> AbstractAsyncContextManager[CheckpointStore]:
        """Return a context manager that gives an empty store of the kind to be tested."""
        raise NotImplementedError("override open_store: return a context manager that gives an empty store")


for _name, _check in all_cases():
    setattr(CheckpointStoreConformance, f"test_{_name}", _case(_check))

"""Asyncio in a Trio program: its loop runs in a thread, and calls of it are awaited and cancelled from Trio.

To be copied: `asyncio_sdk.py` fans the calls of an SDK out with it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

R = TypeVar("R")
PATIENCE = 5.0  # seconds in which a call that was cancelled has to end


class AsyncioThread:
    """What makes calls in the thread of an asyncio loop; made by `open_asyncio`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def call(self, fn: Callable[..., Awaitable[R]], *args: Any) -> R:
        """Await `fn(*args)` over there. A call that is cancelled ends there before it ends here."""
        ended, here = trio.Event(), trio.lowlevel.current_trio_token()
        tasks: list[asyncio.Task[R]] = []

        async def run() -> R:
            return await fn(*args)

        def begin() -> None:
            tasks.append(self._loop.create_task(run()))
            tasks[0].add_done_callback(lambda _: here.run_sync_soon(ended.set))

        def stop() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(begin)
        try:
            await ended.wait()
        finally:
            if not ended.is_set():
                self._loop.call_soon_threadsafe(stop)
                with trio.move_on_after(PATIENCE, shield=True):
                    await ended.wait()
        if tasks[0].cancelled():  # by the SDK itself: a CancelledError means nothing to Trio
            raise RuntimeError(f"{fn} was cancelled in the thread of asyncio")
        return tasks[0].result()

    @asynccontextmanager
    async def opened(self, make: Callable[[], AbstractAsyncContextManager[R]]) -> AsyncIterator[R]:
        """Open what `make` makes over there, such as a session, which belongs to the loop that it is made in."""

        async def enter() -> tuple[AbstractAsyncContextManager[R], R]:
            return (context := make()), await context.__aenter__()

        context, value = await self.call(enter)
        try:
            yield value
        finally:
            with trio.move_on_after(PATIENCE, shield=True):
                await self.call(context.__aexit__, None, None, None)


@asynccontextmanager
async def open_asyncio() -> AsyncIterator[AsyncioThread]:
    async def serve(task_status: trio.TaskStatus[asyncio.AbstractEventLoop]) -> None:
        def run() -> None:
            with asyncio.Runner() as runner:
                trio.from_thread.run_sync(lambda: task_status.started(runner.get_loop()))
                runner.get_loop().run_forever()

        await trio.to_thread.run_sync(run)

    async with trio.open_nursery() as nursery:
        loop = await nursery.start(serve)
        try:
            yield AsyncioThread(loop)
        finally:
            loop.call_soon_threadsafe(loop.stop)

"""Which SDKs work from Trio: each makes a call as it is, on trio-asyncio, and on asyncio in a thread.

Run it, with the SDKs installed that are of interest: `python examples/cookbook/asyncio_survey.py [WAY [SDK ...]]`
For asyncpg and psycopg, `POSTGRES_URL` names a server.
"""
# ruff: noqa: E402 - trio-asyncio is imported first

import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable
from functools import partial

warnings.simplefilter("ignore")  # coroutines that were never awaited, where a call failed

if "on_trio_asyncio" in sys.argv:
    # before the SDKs: it replaces functions of asyncio, and some take them by `from asyncio import ...`
    import trio_asyncio

import trio
from asyncio_thread import open_asyncio
from sdks import SDKS, open_everything

Call = Callable[[], Awaitable[object]]


async def as_it_is(call: Call) -> None:
    await call()


async def on_trio_asyncio(call: Call) -> None:
    async with trio_asyncio.open_loop():
        await trio_asyncio.aio_as_trio(call)()


async def in_a_thread(call: Call) -> None:
    async with open_asyncio() as there:
        await there.call(call)


WAYS = {way.__name__: way for way in (as_it_is, on_trio_asyncio, in_a_thread)}


async def attempt(way: Callable[[Call], Awaitable[None]], call: Call) -> str:
    try:
        with trio.fail_after(60):
            await way(call)
    except Exception as raised:  # noqa: BLE001 - whatever it is, is what we want to know
        error = raised
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        untried = isinstance(error, (ImportError, KeyError))
        return f"{'not tried, ' if untried else ''}{type(error).__name__}: {error}"
    return "works"


async def main(way: str, names: list[str]) -> None:
    async with open_everything() as (url, port):
        for sdk in SDKS:
            if not names or sdk.__name__ in names:
                result = await attempt(WAYS[way], partial(sdk, url, port))
                print(f"{way:18}{sdk.__name__:24}{result}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        trio.run(main, sys.argv[1], sys.argv[2:])
    else:
        for way in WAYS:  # each in a process of its own: trio-asyncio changes asyncio for all of it
            subprocess.run([sys.executable, __file__, way], check=True)  # noqa: S603 - itself

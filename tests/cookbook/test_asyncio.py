"""The recipes of asyncio: calls in the thread of a loop end as Trio's do, and the survey says what works."""

import asyncio
import threading
from importlib.util import find_spec

import pytest
import trio
from asyncio_thread import open_asyncio

from trioflow import ParallelConfig, process_parallel

# The SDKs of the other recipes work as they are, or their tests would fail.
AS_IT_IS = {"httpx2": True, "aiohttp": False}


def needs(*packages):
    # not imported here: trio-asyncio changes asyncio for the whole process
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"the recipe needs {', '.join(missing)}: tests group")


needs_aiohttp = needs("aiohttp", "httpx2", "starlette", "hypercorn")


async def test_calls_run_on_a_loop_of_asyncio_in_one_thread_side_by_side():
    running, most, threads = 0, 0, set()

    async def square(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.get_ident())
        await asyncio.sleep(0.02)
        running -= 1
        return number * number

    with trio.fail_after(10):
        async with open_asyncio() as there:
            config = ParallelConfig(max_workers=8, observer="noop")
            result = await process_parallel(range(8), lambda number: there.call(square, number), config=config)
    assert result.results == [number * number for number in range(8)]
    assert most == 8
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_call_that_is_cancelled_has_ended_over_there_when_it_ends_here():
    told = []

    async def stubborn():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            told.append("cancelled")
            raise

    with trio.fail_after(10):
        async with open_asyncio() as there:
            with trio.move_on_after(0.02) as scope:
                await there.call(stubborn)
            assert scope.cancelled_caught
            assert told == ["cancelled"]


async def test_a_call_that_is_cancelled_before_it_begins_ends_too():
    with trio.fail_after(10):
        async with open_asyncio() as there:
            with trio.CancelScope() as scope:
                scope.cancel()
                await there.call(asyncio.sleep, 60)
            assert scope.cancelled_caught


async def test_errors_come_out_and_a_cancellation_of_asyncio_is_none_of_trio():
    async def fail(error):
        raise error

    async with open_asyncio() as there:
        with pytest.raises(LookupError, match="gone"):
            await there.call(fail, LookupError("gone"))
        with pytest.raises(RuntimeError, match="was cancelled in the thread of asyncio"):
            await there.call(fail, asyncio.CancelledError())


async def test_what_is_opened_over_there_is_closed_over_there_on_every_way_out():
    ways = []

    class Session:
        async def __aenter__(self):
            self.loop = asyncio.get_running_loop()
            return self

        async def __aexit__(self, *error):
            await asyncio.sleep(0.01)
            ways.append(asyncio.get_running_loop() is self.loop)

    with trio.fail_after(10):
        async with open_asyncio() as there:
            async with there.opened(Session):
                pass
            with trio.CancelScope() as scope:
                async with there.opened(Session):
                    scope.cancel()
                    await trio.sleep_forever()
    assert ways == [True, True]


async def test_a_program_that_fails_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(ExceptionGroup) as group:
        async with open_asyncio() as there:
            await there.call(asyncio.sleep, 0)
            raise LookupError
    assert group.group_contains(LookupError)
    # a thread of Trio's stays for a while, to be used again
    assert threading.active_count() <= before + 1
    assert not any("asyncio" in thread.name for thread in threading.enumerate())


@needs_aiohttp
async def test_the_program_fans_out_and_ends_the_call_that_hangs(capsys):
    import asyncio_sdk

    with trio.fail_after(20):
        await asyncio_sdk.main()
    assert capsys.readouterr().out == "29 pages of 7276 characters, [<TaskError of item 7: TooSlowError, attempts 1>]\n"


@needs_aiohttp
@pytest.mark.parametrize("way", ["as_it_is", pytest.param("on_trio_asyncio", marks=needs("trio_asyncio")), "in_a_thread"])
async def test_what_the_page_says_works_does(way, run_recipe):
    wanted = AS_IT_IS if way == "as_it_is" else {"aiohttp": True}
    lines = (await run_recipe("asyncio_survey.py", way, *wanted)).splitlines()
    works = {line.split()[1]: line.endswith("works") for line in lines}
    assert works == wanted, lines
    if way == "as_it_is":
        assert lines[-1].endswith("RuntimeError: no running event loop")

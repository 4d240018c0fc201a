"""A service whose runs are in PostgreSQL: several processes' stores, and a wake-up that nobody polls for."""

import statistics
import time

import pytest
import trio

from trioflow import CheckpointNotFoundError, ServiceConfig, open_service, service_client, wait_for_signal

postgres = pytest.importorskip("trioflow.checkpoint.postgres", reason="psycopg is not installed")

SLOW_POLL = 30.0
CONFIG = ServiceConfig(poll=SLOW_POLL, lease=3 * SLOW_POLL, park_after=0.05, observer="noop")


@pytest.fixture
def url(postgres_server):
    return postgres_server.url()


async def test_a_signal_of_another_process_wakes_without_a_poll(url, graph_of, nothing):
    async def work(state):
        return state.set("got", await wait_for_signal("go"))

    waits = []
    async with (
        postgres.PostgresStore(url) as mine,
        postgres.PostgresStore(url) as theirs,
        open_service(theirs, [graph_of(work)], config=CONFIG),
    ):
        client = service_client(mine)
        with trio.fail_after(50):
            for number in range(5):
                run_id = f"r{number}"
                await client.submit("work", nothing, run_id=run_id)
                while (await mine.look(run_id)).status != "parked":  # noqa: ASYNC110 - it is another's to say
                    await trio.sleep(0.01)
                sent = time.monotonic()
                await client.signal(run_id, "go", number)
                assert (await client.result(run_id)).state["got"] == number
                waits.append(time.monotonic() - sent)
    print(f"from a signal to the result: {1e3 * statistics.median(waits):.0f} ms at the median")
    assert max(waits) < SLOW_POLL / 2


@pytest.mark.parametrize("by", ["this process", "another"])
async def test_a_wait_for_a_run_that_is_deleted_ends_without_a_poll(url, graph_of, nothing, by):
    async with postgres.PostgresStore(url) as mine, postgres.PostgresStore(url) as theirs:
        client = service_client(mine)
        await client.submit("work", nothing, run_id="r", delay=60)

        async def wait():
            with pytest.raises(CheckpointNotFoundError):
                await client.result("r")

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.3)  # so that it waits; where it does not yet, the test says less
                await (mine if by == "this process" else theirs).delete("r")


async def test_a_wait_outlives_the_connection_that_is_notified(url, graph_of, nothing, postgres_server):
    async def work(state):
        return state.set("got", await wait_for_signal("go"))

    config = ServiceConfig(poll=0.2, lease=30.0, park_after=0.05, observer="noop")
    async with (
        postgres.PostgresStore(url) as mine,
        postgres.PostgresStore(url) as theirs,
        open_service(theirs, [graph_of(work)], config=config),
    ):
        client = service_client(mine)
        await client.submit("work", nothing, run_id="r")
        with trio.fail_after(50):
            while (await mine.look("r")).status != "parked":  # noqa: ASYNC110 - it is another's to say
                await trio.sleep(0.01)
            ended = postgres_server.ask(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'trioflow'"
            )
            assert ended[0][0] >= 3
            await client.signal("r", "go", 7)
            assert (await client.result("r")).state["got"] == 7

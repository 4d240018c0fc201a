"""Waits that outlive a process: sleeps and signals, in a service and in any graph that is kept."""

import pytest
import trio

from trioflow import (
    CheckpointConfig,
    ConfigError,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    RetryConfig,
    ServiceConfig,
    State,
    StateGraph,
    branches_node,
    chain_node,
    durable_sleep,
    graph_node,
    open_service,
    parallel_node,
    pause,
    service_client,
    wait_for_signal,
)
from trioflow.checkpoint.service_protocol import LeaseRequest, Release

QUIET = ServiceConfig(observer="noop")


async def status_of(store, run_id):
    return next((run.status, run.reason) for run in await store.list_runs() if run.run_id == run_id)


async def test_a_short_sleep_stays_in_memory_and_a_long_one_parks(store, graph_of, nothing, autojump_clock):
    calls = []

    async def work(state):
        calls.append(trio.current_time())
        await durable_sleep(0.5)
        await durable_sleep(1000)
        await durable_sleep(0)
        return state

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        began = trio.current_time()
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(0.4)
        assert (await status_of(store, "r"))[0] == "running"
        await trio.sleep(2)
        assert await status_of(store, "r") == ("parked", "sleeps for 1000 s")
        assert service._engine._runs == {}
        await service.result("r")
        assert trio.current_time() - began == pytest.approx(1000.5, abs=0.01)
    assert [at - began for at in calls] == [pytest.approx(0, abs=0.01), pytest.approx(1000.5, abs=0.01)]


async def test_a_parked_run_gives_its_places_away(store, graph_of, nothing, autojump_clock):
    done = []

    async def work(state):
        await durable_sleep(100)
        done.append(trio.current_time())
        return state

    config = ServiceConfig(observer="noop", max_runs=1, limits={"work": 1})
    async with open_service(store, [graph_of(work)], config=config) as service:
        began = trio.current_time()
        ids = [await service.submit("work", nothing) for _ in range(20)]
        for run_id in ids:
            await service.result(run_id)
    assert done[-1] - began < 101


async def test_sleeps_count_from_when_they_began_across_processes(store, graph_of, nothing, autojump_clock):
    async def work(state):
        await durable_sleep(100)
        return state

    graph = graph_of(work)
    began = trio.current_time()
    client = service_client(store)
    await client.submit("work", nothing, run_id="r")
    async with open_service(store, [graph], config=ServiceConfig(observer="noop", park_after=1000.0)):
        await trio.sleep(50)
        assert (await status_of(store, "r"))[0] == "running"
        left = trio.current_time()
    # A wait is let go of at once, whatever the block would wait for.
    assert trio.current_time() == left
    await trio.sleep(20)
    async with open_service(store, [graph], config=QUIET):
        await client.result("r")
    assert trio.current_time() - began == pytest.approx(100, abs=0.01)


async def test_a_signal_is_waited_for_in_memory_and_parked(store, graph_of, nothing, autojump_clock):
    calls = []

    async def work(state):
        calls.append(1)
        first = await wait_for_signal("go")
        second = await wait_for_signal("go")
        return State(got=[first, second])

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(0.5)
        await service.signal("r", "go", {"a": 1})
        await trio.sleep(0.5)
        assert len(calls) == 1
        await trio.sleep(100)
        assert await status_of(store, "r") == ("parked", "waits for the signal 'go'")
        await service.signal("r", "other")
        await trio.sleep(100)
        assert len(calls) == 1
        await service.signal("r", "go")
        assert (await service.result("r")).state == State(got=[{"a": 1}, None])
    assert len(calls) == 2


async def test_signals_that_come_early_are_taken_in_their_order_once(store, graph_of, nothing, autojump_clock):
    async def one(state):
        return state.set("one", await wait_for_signal("go"))

    async def two(state):
        return state.set("two", [await wait_for_signal("go"), await wait_for_signal("go")])

    async with open_service(store, [graph_of(one, two)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r", delay=5)
        for number in range(4):
            await service.signal("r", "go", number)
        assert (await service.result("r")).state == State(n=0, one=0, two=[1, 2])


async def test_a_signal_in_the_tick_in_which_the_run_parks(store, graph_of, nothing, autojump_clock):
    async def work(state):
        return State(got=await wait_for_signal("go"))

    release = store.release
    sent = []

    async def just_before(run_id, epoch, given):
        if given.waits_for == "go" and not sent:
            sent.append(1)
            await service.signal(run_id, "go", "just in time")
        await release(run_id, epoch, given)

    store.release = just_before
    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        with trio.fail_after(10):
            assert (await service.result("r")).state == State(got="just in time")
    assert sent == [1]


async def test_a_cancellation_in_the_tick_in_which_the_run_parks(store, graph_of, nothing, autojump_clock):
    from trioflow import RunCancelledError

    async def work(state):
        await durable_sleep(1000)

    release = store.release

    async def just_before(run_id, epoch, given):
        await service.cancel(run_id)
        await release(run_id, epoch, given)

    store.release = just_before
    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        with trio.fail_after(10), pytest.raises(RunCancelledError):
            await service.result("r")
    store.release = release
    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="parked")
        await trio.sleep(10)
        assert (await status_of(store, "parked"))[0] == "parked"
        await service.cancel("parked")
        assert await status_of(store, "parked") == ("cancelled", None)


async def test_a_signal_that_was_taken_is_there_after_a_crash(store, graph_of, nothing, autojump_clock):
    got = []

    async def work(state):
        got.append(await wait_for_signal("go"))
        await trio.sleep(1)
        return state

    graph = graph_of(work)
    async with open_service(store, [graph], config=ServiceConfig(observer="noop", drain_timeout=0.1)) as service:
        await service.submit("work", nothing, run_id="r")
        for number in range(3):
            await service.signal("r", "go", number)
        await trio.sleep(0.5)
    assert got == [0]
    async with open_service(store, [graph], config=QUIET) as service:
        await service.result("r")
    assert got == [0, 0]


async def test_a_timeout_counts_from_the_first_beginning_and_stays_over(store, graph_of, nothing, autojump_clock):
    calls = []

    async def work(state):
        calls.append(1)
        try:
            return State(got=await wait_for_signal("go", timeout=100))
        except trio.TooSlowError as error:
            await durable_sleep(50)
            # Too late, also for the node that is called again.
            return State(late=str(error))

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        began = trio.current_time()
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(120)
        await service.signal("r", "go", 1)
        assert (await service.result("r")).state == State(late="the signal 'go' did not arrive within 100 s")
        assert trio.current_time() - began == pytest.approx(150, abs=0.1)
    assert len(calls) == 3


async def test_a_retried_node_meets_the_same_waits(store, nothing, autojump_clock):
    attempts = []

    async def work(state):
        attempts.append(trio.current_time())
        got = await wait_for_signal("go")
        await durable_sleep(0.5)
        if len(attempts) < 3:
            raise ValueError("again")
        return State(got=got, more=await wait_for_signal("go"))

    graph = StateGraph(GraphConfig(name="work", observer="noop", retry=RetryConfig(initial_delay=0.1, jitter=False)))
    graph.add_node("work", work)
    graph.set_entry_point("work")
    graph.set_exit_point("work")
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        for number in range(4):
            await service.signal("r", "go", number)
        assert (await service.result("r")).state == State(got=0, more=1)
    # The second and third attempts sleep no more.
    assert attempts[2] - attempts[0] == pytest.approx(0.5 + 0.1 + 0.2, abs=0.01)


async def test_waits_of_one_node_in_two_visits_are_two(store, nothing, autojump_clock):
    async def work(state):
        return state.set("got", [*state.get("got", []), await wait_for_signal("go")])

    async def end(state):
        return state

    graph = StateGraph(GraphConfig(name="work", observer="noop"))
    graph.add_node("work", work)
    graph.add_node("end", end)
    graph.add_edge("work", "work", lambda state: len(state["got"]) < 3)
    graph.add_edge("work", "end")
    graph.set_entry_point("work")
    graph.set_exit_point("end")
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        for number in range(3):
            await trio.sleep(10)
            await service.signal("r", "go", number)
        assert (await service.result("r")).state["got"] == [0, 1, 2]


async def test_a_graph_in_a_node_waits_too(store, graph_of, nothing, autojump_clock):
    calls = []

    async def inner(state):
        calls.append("inner")
        await durable_sleep(100)
        return state.set("got", await wait_for_signal("go"))

    async def before(state):
        calls.append("before")
        return state

    node = graph_node(graph_of(before, inner, name="inside"), enter=lambda state: state, leave=lambda state, last: last)
    async with open_service(store, [graph_of(node)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(50)
        assert (await status_of(store, "r"))[0] == "parked"
        await service.signal("r", "go", 7)
        assert (await service.result("r")).state == State(n=0, got=7)
    assert calls == ["before", "inner", "inner"]


async def test_any_graph_that_is_kept_may_wait(store, graph_of, nothing, autojump_clock):
    async def work(state):
        await durable_sleep(100)
        return state.set("got", await wait_for_signal("go", timeout=50))

    graph = graph_of(work, store=store)
    with trio.move_on_after(60):
        await graph.execute(nothing, run_id="r")
    began = trio.current_time()
    results = []

    async def resume():
        results.append(await graph.resume("r"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        await trio.sleep(45)
        await service_client(store).signal("r", "go", 5)
    assert results[0].state == State(n=0, got=5)
    assert trio.current_time() - began == pytest.approx(45, abs=0.01)


@pytest.mark.parametrize("wait", [lambda: durable_sleep(5), lambda: wait_for_signal("go")], ids=["sleep", "signal"])
async def test_waits_elsewhere_are_refused(store, graph_of, nothing, autojump_clock, wait):
    async def item(value):
        await wait()

    async def chain(value, state):
        await wait()
        return state

    async def branch(state):
        await wait()
        return state

    async def task(state):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
        return state

    nodes = [
        parallel_node(item, items=[1], aggregate=lambda state, result: state, config=ParallelConfig(observer="noop")),
        chain_node(chain, items=[1]),
        branches_node({"one": branch, "two": branch}),
        task,
    ]
    with pytest.raises(RuntimeError, match="work only in a node itself"):
        await wait()
    for number, node in enumerate(nodes):
        with pytest.raises(ExecutionError) as caught:
            await graph_of(node, store=store).execute(nothing, run_id=f"r{number}")
        causes, error = [], caught.value
        while error is not None:
            causes.append(repr(error))
            error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or getattr(error, "error", None)
        assert any("work only in a node itself" in cause for cause in causes), causes


async def test_bad_waits_are_refused(store, graph_of, nothing, autojump_clock):
    from trioflow.testing import FaultyStore

    async def unkept(state):
        await durable_sleep(1)

    with pytest.raises(ExecutionError, match="needs a durable run"):
        await graph_of(unkept).execute(nothing)
    for call in (lambda: durable_sleep(-1), lambda: durable_sleep(float("nan")), lambda: durable_sleep("1"), lambda: wait_for_signal(""), lambda: wait_for_signal("a", timeout=-1)):
        with pytest.raises(ConfigError):
            await call()

    async def signal(state):
        await wait_for_signal("go")

    faulty = FaultyStore(MemoryStore())
    with pytest.raises(ExecutionError, match="needs a store that supports signals"):
        await graph_of(signal, store=faulty).execute(nothing, run_id="r")


async def test_a_pause_between_waits_keeps_them(store, graph_of, nothing, autojump_clock):
    async def work(state):
        got = await wait_for_signal("go")
        if "answer" not in state:
            pause("?")
        return state.set("got", got)

    graph = graph_of(work, on_resume=lambda state, payload: state.set("answer", payload))
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await service.signal("r", "go", 1)
        await trio.sleep(5)
        assert (await status_of(store, "r"))[0] == "paused"
        await service.signal("r", "go", 2)
        await service.signal("r", "resume", "yes")
        assert (await service.result("r")).state == State(n=0, answer="yes", got=1)


async def test_waiting_runs_are_let_go_of_by_drain_and_come_back(store, graph_of, nothing, autojump_clock):
    async def work(state):
        return State(got=await wait_for_signal("go"))

    graph = graph_of(work)
    patient = ServiceConfig(observer="noop", park_after=1e6)
    async with open_service(store, [graph], config=patient) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(5)
        assert (await status_of(store, "r"))[0] == "running"
        service.drain()
        await trio.sleep(0.01)
        assert (await status_of(store, "r"))[0] == "parked"
    await service_client(store).signal("r", "go", 3)
    async with open_service(store, [graph], config=patient) as service:
        assert (await service.result("r")).state == State(got=3)


async def test_a_wait_after_the_run_is_lost_ends_it(store, graph_of, nothing, autojump_clock):
    after = []

    async def work(state):
        store._entries.find("r").due = 0.0
        await store.lease(LeaseRequest(graphs=["work"], room=9, limits={}, lease=1000.0))
        await durable_sleep(5)
        after.append(1)

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(100)
        assert (await store.look("r")).status == "running"
    assert after == []


async def test_a_wait_that_another_graph_makes_in_a_node_parks_nothing(store, graph_of, nothing, autojump_clock):
    other = MemoryStore()

    async def wait(state):
        await durable_sleep(50)
        return state

    inner = StateGraph(GraphConfig(name="inner", observer="noop", checkpoint=CheckpointConfig(interval=1)), store=other)
    inner.add_node("wait", wait)
    inner.set_entry_point("wait")
    inner.set_exit_point("wait")
    calls = []

    async def work(state):
        calls.append(1)
        await inner.execute(state, run_id="mine")
        return state

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await service.result("r")
    assert calls == [1]


async def test_released_runs_of_a_store_come_back_in_time(store, graph_of, nothing, autojump_clock):
    async def work(state):
        return state

    await service_client(store).submit("work", nothing, run_id="r")
    (lease,) = (await store.lease(LeaseRequest(graphs=["work"], room=9, limits={}, lease=30.0))).taken
    await store.release("r", lease.epoch, Release(status="parked", delay=12.0))
    began = trio.current_time()
    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.result("r")
    assert trio.current_time() - began == pytest.approx(12, abs=0.01)

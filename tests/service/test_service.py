"""Runs are submitted, made, found again, cancelled and let go of."""

import msgspec
import pytest
import trio

from trioflow import (
    CheckpointConflictError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
    ExecutionError,
    GraphError,
    RecordingObserver,
    RemoteError,
    RunCancelledError,
    ServiceConfig,
    State,
    StateGraph,
    open_service,
    pause,
    service_client,
)
from trioflow.checkpoint.memory import MemoryStore
from trioflow.checkpoint.service_protocol import LeaseRequest

QUIET = ServiceConfig(observer="noop")


def config(**options):
    return ServiceConfig(observer="noop", **options)


async def add_one(state):
    return state.set("n", state["n"] + 1)


async def status_of(store, run_id):
    return next((run.status, run.reason) for run in await store.list_runs() if run.run_id == run_id)


async def test_a_submitted_run_has_its_result(store, graph_of, nothing, autojump_clock):
    async with open_service(store, [graph_of(add_one, add_one)], config=QUIET) as service:
        run_id = await service.submit("work", nothing)
        result = await service.result(run_id)
        assert (result.state, result.run_id, result.status) == (State(n=2), run_id, "completed")
        assert (result.exit_point, result.path, result.iterations) == ("add_one1", ["add_one", "add_one1"], 2)
        assert await service.result(run_id) == result
    assert await status_of(store, run_id) == ("completed", None)
    assert await service_client(store).result(run_id) == result


async def test_a_run_submitted_before_a_service_is_there_is_made(store, graph_of, nothing, autojump_clock):
    client = service_client(store)
    await client.submit("work", nothing, run_id="r")
    assert await status_of(store, "r") == ("queued", None)
    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        assert (await service.result("r")).state == State(n=1)


async def test_at_most_max_runs_are_made_at_once_first_come_first_served(store, graph_of, nothing, autojump_clock):
    began, running, most = [], 0, 0

    async def work(state):
        nonlocal running, most
        began.append(state["id"])
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return state

    for max_runs in (3, 1):
        began, most = [], 0
        async with open_service(store, [graph_of(work)], config=config(max_runs=max_runs)) as service:
            ids = [await service.submit("work", State(id=number)) for number in range(10)]
            for run_id in ids:
                await service.result(run_id)
        assert most == max_runs
        assert sorted(began) == list(range(10))
    # Those of one look begin at once; here each look gives one.
    assert began == list(range(10))


async def test_limits_hold_over_all_processes(store, graph_of, nothing, autojump_clock):
    running, most = 0, 0

    async def work(state):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return state

    graph, free = graph_of(work), graph_of(add_one, name="free")
    limited = config(limits={"work": 2})
    async with open_service(store, [graph, free], config=limited) as one, open_service(store, [graph], config=limited):
        for number in range(9):
            await one.submit("work", nothing, run_id=f"r{number}")
        await one.submit("free", nothing, run_id="free")
        with trio.fail_after(0.5):
            await one.result("free")
        for number in range(9):
            await one.result(f"r{number}")
    assert most == 2


async def test_a_delay_comes_first(store, graph_of, nothing, autojump_clock):
    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        began = trio.current_time()
        await service.submit("work", nothing, run_id="late", delay=100.0)
        await service.submit("work", nothing, run_id="early")
        await service.result("early")
        assert trio.current_time() - began < 1
        await service.result("late")
        assert trio.current_time() - began == pytest.approx(100, abs=0.1)


async def test_an_id_is_used_once(store, graph_of, nothing, autojump_clock):
    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        for _ in range(2):
            with pytest.raises(CheckpointMismatchError, match="'r' already exists"):
                await service.submit("work", nothing, run_id="r")
            await service.result("r")


async def test_an_unknown_run_is_not_found(store, graph_of, autojump_clock):
    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        for call in (service.result, service.cancel, lambda run_id: service.signal(run_id, "go")):
            with pytest.raises(CheckpointNotFoundError):
                await call("gone")


async def test_an_ended_run_takes_no_signal_and_is_not_cancelled(store, graph_of, nothing, autojump_clock):
    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await service.result("r")
        with pytest.raises(CheckpointMismatchError, match="has ended"):
            await service.signal("r", "go")
        await service.cancel("r")
        assert (await service.result("r")).state == State(n=1)


class Draft(msgspec.Struct):
    text: str


async def test_bad_input_is_refused_and_nothing_is_kept(store, graph_of, nothing, autojump_clock):
    graph = graph_of(add_one)
    typed = StateGraph(msgspec.structs.replace(graph._config, name="typed"), Draft)
    typed.add_node("a", add_one)
    typed.set_entry_point("a")
    typed.set_exit_point("a")
    with pytest.raises(ConfigError, match="lease must be at least three times poll"):
        ServiceConfig(lease=1.0, poll=0.5)
    for options in ({"max_runs": 0}, {"limits": {"a": 0}}, {"limits": {"": 1}}, {"poll": 0}, {"park_after": -1}, {"drain_timeout": 0}):
        with pytest.raises(ConfigError):
            ServiceConfig(**options)
    for bad in ("sqlite:///x.db", None, object(), MemoryStore):
        with pytest.raises(ConfigError):
            open_service(bad, [graph])
    for bad in ([], [graph, graph], graph, [object()], None):
        with pytest.raises(ConfigError):
            open_service(store, bad)
    with pytest.raises(GraphError):
        open_service(store, [StateGraph(msgspec.structs.replace(graph._config, name="empty"))])
    async with open_service(store, [graph, typed], config=QUIET) as service:
        with pytest.raises(ConfigError, match=r"graph must be the name of a graph that is served \(did you mean 'work'\?"):
            await service.submit("wrk", nothing)
        for state in (Draft("x"), {"n": 0}, None):
            with pytest.raises(ConfigError, match="state must be a State"):
                await service.submit("work", state)
        for options in ({"run_id": ""}, {"run_id": "a..b"}, {"delay": -1}, {"delay": float("inf")}, {"delay": "1"}):
            with pytest.raises(ConfigError):
                await service.submit("work", nothing, **options)
        with pytest.raises(ConfigError):
            await service.signal("r", "")
        with pytest.raises(ConfigError, match="state must be a State"):
            await service_client(store).submit("work", 5)
    assert await store.list_runs() == []


async def test_a_store_that_keeps_no_service_is_refused(graph_of):
    from trioflow.testing import FaultyStore

    with pytest.raises(ConfigError, match="has no submit"):
        open_service(FaultyStore(MemoryStore()), [graph_of(add_one)])
    with pytest.raises(ConfigError, match="has no submit"):
        service_client(FaultyStore(MemoryStore()))


class OddError(Exception):
    pass


@pytest.mark.parametrize(("raised", "name"), [(ValueError("boom", 5), "ValueError"), (OddError("odd"), "OddError"), (trio.TooSlowError("slow"), "trio.TooSlowError")])
async def test_an_error_is_the_same_here_and_of_the_same_type_there(store, graph_of, nothing, autojump_clock, raised, name):
    async def fail(state):
        raise raised

    graph = graph_of(add_one, fail)
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        with pytest.raises(ExecutionError) as here:
            await service.result("r")
        assert here.value.__cause__ is raised
        with pytest.raises(ExecutionError) as there:
            await service_client(store, [graph]).result("r")
    assert (there.value.node, there.value.path, there.value.run_id, there.value.kind) == ("fail", ["add_one", "fail"], "r", "node")
    assert there.value.state == State(n=1)
    remote = there.value.__cause__
    assert isinstance(remote, RemoteError)
    assert remote.type.endswith(name)
    assert remote.message == str(raised)
    assert "in fail" in remote.traceback
    status, reason = await status_of(store, "r")
    assert status == "failed"
    assert str(raised) in reason


@pytest.mark.parametrize("raised", [ValueError("boom", 5), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), ConfigError("no"), CheckpointConflictError("mine")])
async def test_an_error_of_on_resume_is_made_again(store, graph_of, nothing, autojump_clock, raised):
    async def ask(state):
        pause("?")

    def on_resume(state, payload):
        raise raised

    graph = graph_of(ask, on_resume=on_resume)
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await service.signal("r", "resume", 1)
        if isinstance(raised, CheckpointConflictError):
            # What this package raises itself for a run that is somebody else's says nothing of the run.
            return
        with pytest.raises(type(raised)) as here:
            await service.result("r")
        assert here.value is raised
        with pytest.raises(type(raised)) as there:
            await service_client(store).result("r")
        assert there.value.args == raised.args
        assert isinstance(there.value.__cause__, RemoteError)


async def test_an_error_of_another_type_is_described(store, graph_of, nothing, autojump_clock):
    async def ask(state):
        pause("?")

    def on_resume(state, payload):
        raise OddError("odd")

    async with open_service(store, [graph_of(ask, on_resume=on_resume)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await service.signal("r", "resume", 1)
        with pytest.raises(OddError):
            await service.result("r")
    with pytest.raises(RemoteError, match="OddError: odd"):
        await service_client(store).result("r")


async def test_a_paused_run_goes_on_with_what_the_signal_brought(store, graph_of, nothing, autojump_clock):
    calls = []

    async def ask(state):
        calls.append(dict(state))
        if "answer" not in state:
            pause("how many?")
        return state

    graph = graph_of(add_one, ask, on_resume=lambda state, payload: state.set("answer", payload))
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(10)
        assert await status_of(store, "r") == ("paused", "waits for the signal 'resume'")
        await service.signal("r", "other", 1)
        await trio.sleep(10)
        await service.signal("r", "resume")
        await trio.sleep(10)
        assert calls == [{"n": 1}, {"n": 1}]
        await service.signal("r", "resume", 42)
        assert (await service.result("r")).state == State(n=1, answer=42)
    assert calls[2:] == [{"n": 1, "answer": 42}]


async def test_a_payload_that_nobody_would_use_is_refused(store, graph_of, nothing, autojump_clock):
    async def ask(state):
        pause()

    async with open_service(store, [graph_of(ask)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        with pytest.raises(ConfigError, match="has no on_resume"):
            await service.signal("r", "resume", 1)
        with pytest.raises(ConfigError, match="on_resume must be"):
            graph_of(ask, on_resume=5)


async def test_a_payload_from_who_does_not_know_the_graph_is_not_lost_silently(
    store, graph_of, nothing, autojump_clock
):
    async def ask(state):
        pause()

    observer = RecordingObserver()
    async with open_service(store, [graph_of(ask)], observer=observer) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(10)
        stranger = service_client(store)
        await stranger.signal("r", "resume")
        await trio.sleep(10)
        assert not [event for event in observer.events if event.data.get("name") == "payload unused"]
        await stranger.signal("r", "resume", {"answer": "yes"})
        await trio.sleep(10)
    (event,) = [event for event in observer.events if event.data.get("name") == "payload unused"]
    assert event.data["data"] == {"run_id": "r"}
    assert event.data["error_message"] == "graph 'work' has no on_resume that could use the payload of 'resume'"


async def test_a_run_is_cancelled_wherever_it_stands(store, graph_of, nothing, autojump_clock):
    left = []

    async def work(state):
        try:
            await trio.sleep_forever()
        finally:
            left.append("work")

    async with open_service(store, [graph_of(work)], config=config(max_runs=1)) as service:
        await service.submit("work", nothing, run_id="running")
        await service.submit("work", nothing, run_id="queued")
        await trio.sleep(1)
        for run_id in ("queued", "running"):
            await service.cancel(run_id)
            with trio.fail_after(1), pytest.raises(RunCancelledError, match=run_id) as caught:
                await service.result(run_id)
            assert caught.value.run_id == run_id
    assert left == ["work"]
    with pytest.raises(RunCancelledError):
        await service_client(store).result("running")
    assert await status_of(store, "running") == ("cancelled", None)


async def test_drain_finishes_steps_in_hand_and_lets_go_of_the_rest(store, graph_of, nothing, autojump_clock):
    calls = []

    async def slow(state):
        calls.append("slow")
        await trio.sleep(5)
        return await add_one(state)

    async def next_one(state):
        calls.append("next")
        return state

    graph = graph_of(slow, next_one)
    async with open_service(store, [graph], config=config(max_runs=1)) as service:
        await service.submit("work", nothing, run_id="r")
        await service.submit("work", nothing, run_id="later")
        await trio.sleep(1)
        service.drain()
        service.drain()
        await trio.sleep(10)
        assert calls == ["slow"]
        assert await status_of(store, "r") == ("queued", None)
        assert await status_of(store, "later") == ("queued", None)
    assert (await store.load("r")).step == 1
    async with open_service(store, [graph], config=QUIET) as service:
        assert (await service.result("r")).state == State(n=1)
        assert calls == ["slow", "slow", "next"] or calls == ["slow", "next", "slow"]


async def test_leaving_the_block_drains_and_cancels_what_takes_too_long(store, graph_of, nothing, autojump_clock):
    ended = []

    async def work(state):
        try:
            await trio.sleep(state["seconds"])
            ended.append(state["seconds"])
        except trio.Cancelled:
            ended.append("cancelled")
            raise
        return state

    async with open_service(store, [graph_of(work)], config=config(drain_timeout=10.0)) as service:
        for seconds in (5, 50):
            await service.submit("work", State(seconds=seconds), run_id=f"r{seconds}")
        await trio.sleep(1)
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(10)
    assert ended == [5, "cancelled"]
    assert await status_of(store, "r5") == ("completed", None)
    assert await status_of(store, "r50") == ("queued", None)


@pytest.mark.parametrize("how", ["raise", "cancel"])
async def test_a_block_that_fails_lets_go_at_once(store, graph_of, nothing, autojump_clock, how):
    async def work(state):
        await trio.sleep(100)

    began = trio.current_time()
    with trio.CancelScope() as scope:
        try:
            async with open_service(store, [graph_of(work)], config=QUIET) as service:
                await service.submit("work", nothing, run_id="r")
                await trio.sleep(1)
                if how == "raise":
                    raise OddError
                scope.cancel()
                await trio.lowlevel.checkpoint()
        except OddError:
            assert how == "raise"
    assert trio.current_time() - began == pytest.approx(1)
    assert await status_of(store, "r") == ("queued", None)


async def test_a_node_that_stops_the_process_stops_the_service(store, graph_of, nothing, autojump_clock):
    async def work(state):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with open_service(store, [graph_of(work)], config=QUIET) as service:
            await service.submit("work", nothing, run_id="r")
            await trio.sleep_forever()
    assert await status_of(store, "r") == ("queued", None)


# The seams: leases, takeover, and what happens in one tick.


async def take_away(store, *run_ids):
    """Let another process take the runs, as it does when the lease has ended."""
    for run_id in run_ids:
        store._entries.find(run_id).due = 0.0
    request = LeaseRequest(graphs=["work"], room=9, limits={}, lease=1000.0)
    return {lease.run_id: lease.epoch for lease in (await store.lease(request)).taken}


async def test_a_lease_is_prolonged_however_long_a_step_takes(store, graph_of, nothing, autojump_clock):
    calls = []

    async def work(state):
        calls.append(1)
        await trio.sleep(1000)
        return state

    graph = graph_of(work)
    quick = config(lease=3.0)
    async with open_service(store, [graph], config=quick) as one, open_service(store, [graph], config=quick):
        await one.submit("work", nothing, run_id="r")
        await one.result("r")
    assert calls == [1]


async def test_another_process_goes_on_after_the_last_step(store, graph_of, nothing, autojump_clock):
    calls = []

    async def first(state):
        calls.append("first")
        return await add_one(state)

    async def second(state):
        calls.append("second")
        return await add_one(state)

    graph = graph_of(first, second)
    await service_client(store, [graph]).submit("work", nothing, run_id="r")
    # A process that dies after its first step: it took the run, saved the step, and was heard of no more.
    (lease,) = (await store.lease(LeaseRequest(graphs=["work"], room=1, limits={}, lease=30.0))).taken
    from trioflow.checkpoint.codec import sealed

    kept = await store.load("r")
    step = msgspec.structs.replace(kept, step=1, node="first", next_node="second", iterations=1, state=graph._keeping(preserve=True).codec.encode(State(n=1)))
    await store.save(sealed(step), lease.epoch)
    began = trio.current_time()
    async with open_service(store, [graph], config=QUIET) as service:
        result = await service.result("r")
    assert (result.state, result.iterations, calls) == (State(n=2), 2, ["second"])
    assert 29 < trio.current_time() - began < 31


async def test_a_run_that_is_lost_stops_here_and_says_nothing(store, graph_of, nothing, autojump_clock):
    ended = []
    observer = RecordingObserver()

    async def work(state):
        try:
            await trio.sleep(100)
        finally:
            ended.append(trio.current_time())
        return state

    async with open_service(store, [graph_of(work)], config=config(lease=3.0), observer=observer) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(0.1)
        epochs = await take_away(store, "r")
        began = trio.current_time()
        await trio.sleep(10)
        assert len(ended) == 1
        assert ended[0] - began <= 3
        assert (await store.look("r")).status == "running"
        await store.finish("r", epochs["r"], "cancelled", b"")
    assert [event.data["data"]["run_id"] for event in observer.events if event.data.get("name") == "lease lost"] == ["r"]


async def test_a_lease_lost_in_the_tick_in_which_a_step_is_saved(store, graph_of, nothing, autojump_clock):
    later = []

    async def first(state):
        # Whoever has it now has it before this step is saved.
        await take_away(store, "r")
        return await add_one(state)

    async def second(state):
        later.append(state)
        return state

    async with open_service(store, [graph_of(first, second)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(1)
        assert (await store.load("r")).step == 0
        assert (await store.look("r")).status == "running"
    assert later == []


async def test_a_takeover_while_the_old_one_saves(store, graph_of, nothing, autojump_clock):
    calls = []

    async def first(state):
        calls.append("first")
        return await add_one(state)

    async def second(state):
        calls.append("second")
        if len(calls) == 2:
            epochs = await take_away(store, "r")
            await store.release("r", epochs["r"], _queued())
        return await add_one(state)

    async with open_service(store, [graph_of(first, second, add_one)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        result = await service.result("r")
    # The step that the first one made was refused, so the second one makes it; those before it stay.
    assert calls == ["first", "second", "second"]
    assert result.state == State(n=3)


def _queued():
    from trioflow.checkpoint.service_protocol import Release

    return Release(status="queued", delay=0.0)


async def test_a_run_that_ended_before_it_said_so_is_not_made_again(store, graph_of, nothing, autojump_clock):
    calls = []

    async def work(state):
        calls.append(1)
        return await add_one(state)

    class Dies(Exception):
        pass

    graph = graph_of(work)
    finish = store.finish

    async def fails(*args):
        raise CheckpointStoreError("the disk is full")

    store.finish = fails
    async with open_service(store, [graph], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(5)
        assert (await store.load("r")).status == "completed"
        store.finish = finish
        result = await service.result("r")
    assert (result.state, result.exit_point, calls) == (State(n=1), "work", [1])


async def test_a_store_that_fails_for_longer_than_a_lease_costs_the_runs(store, graph_of, nothing, autojump_clock):
    ended = []
    observer = RecordingObserver()

    async def work(state):
        try:
            await trio.sleep(50)
        except trio.Cancelled:
            ended.append("cancelled")
            raise
        ended.append("done")
        return state

    lease = store.lease
    async with open_service(store, [graph_of(work)], config=config(lease=3.0), observer=observer) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(0.5)

        async def fails(request):
            raise CheckpointStoreError("no route to the store")

        store.lease = fails
        await trio.sleep(20)
        assert ended == ["cancelled"]
        store.lease = lease
        assert (await service.result("r")).status == "completed"
    assert ended == ["cancelled", "done"]
    told = [event.data["error_message"] for event in observer.events if event.data.get("name") == "store failed"]
    assert told == ["no route to the store"]


async def test_a_run_whose_node_is_gone_is_blocked_until_somebody_knows_it(store, graph_of, nothing, autojump_clock):
    async def old(state):
        await trio.sleep(1)
        return await add_one(state)

    async def gone(state):
        return await add_one(state)

    async def new(state):
        return state

    async with open_service(store, [graph_of(old, gone)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(0.5)
    async with open_service(store, [graph_of(old, new)], config=QUIET) as service:
        await trio.sleep(100)
        status, reason = await status_of(store, "r")
        assert status == "blocked"
        assert "'gone'" in reason
        async with open_service(store, [graph_of(old, gone)], config=QUIET):
            assert (await service.result("r")).state == State(n=2)


async def test_a_state_of_another_type_is_blocked(store, graph_of, nothing, autojump_clock):
    await service_client(store).submit("work", Draft("x"), run_id="r")
    graph = StateGraph(graph_of(add_one)._config, _Other)
    graph.add_node("a", add_one)
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    async with open_service(store, [graph], config=QUIET):
        await trio.sleep(5)
    status, reason = await status_of(store, "r")
    assert status == "blocked"
    assert "of another type" in reason


class _Other(msgspec.Struct):
    number: int


async def test_a_run_that_is_deleted_ends(store, graph_of, nothing, autojump_clock):
    ended = []

    async def work(state):
        try:
            await trio.sleep(100)
        finally:
            ended.append(1)

    async with open_service(store, [graph_of(work)], config=config(lease=3.0)) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(1)
        await store.delete("r")
        await trio.sleep(3)
        assert ended == [1]
        with pytest.raises(CheckpointNotFoundError):
            await service.result("r")
        await service.submit("work", nothing, run_id="r")
        await service.cancel("r")


async def test_an_error_is_not_that_of_a_later_run_of_the_same_id(store, graph_of, nothing, autojump_clock):
    fails = True

    async def work(state):
        if fails:
            raise ValueError("the first run")
        return state

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        await service.submit("work", nothing, run_id="r")
        with pytest.raises(ExecutionError, match="the first run"):
            await service.result("r")
        await store.delete("r")
        fails = False
        await service.submit("work", nothing, run_id="r")
        assert (await service.result("r")).status == "completed"


async def test_runs_inside_runs_are_kept_and_go_on(store, graph_of, nothing, autojump_clock):
    from trioflow import ParallelConfig, parallel_node

    calls = []

    async def call(item):
        calls.append(item)
        await trio.sleep(item)
        return item

    fan_out = parallel_node(call, items=[1, 2, 100], aggregate=lambda state, result: state.set("sum", sum(result.results)), config=ParallelConfig(max_workers=3))
    graph = graph_of(fan_out)
    async with open_service(store, [graph], config=config(drain_timeout=10.0)) as service:
        await service.submit("work", nothing, run_id="r")
        await trio.sleep(1)
    assert sorted(calls) == [1, 2, 100]
    async with open_service(store, [graph], config=QUIET) as service:
        result = await service.result("r")
    assert sorted(calls) == [1, 2, 100, 100]
    assert result.state == State(n=0, sum=103)


async def test_events_of_runs_reach_the_observer(store, graph_of, nothing, autojump_clock):
    observer, own = RecordingObserver(), RecordingObserver()
    graph = StateGraph(msgspec.structs.replace(graph_of(add_one)._config, observer="loguru"))
    graph.add_node("a", add_one)
    graph.set_entry_point("a")
    graph.set_exit_point("a")
    mine = graph_of(add_one, name="mine", observer=own)
    async with open_service(store, [graph, mine], config=ServiceConfig(observer="noop"), observer=observer) as service:
        await service.submit("work", nothing, run_id="r")
        await service.submit("mine", nothing, run_id="m")
        await service.result("r")
        await service.result("m")
    assert {event.run_id for event in observer.events} >= {"r", "m"}
    async with open_service(store, [mine], config=QUIET) as service:
        await service.submit("mine", nothing, run_id="m2")
        await service.result("m2")
    assert {event.run_id for event in own.events} == {"m2"}


async def test_large_states_and_typed_ones_come_back(store, graph_of, autojump_clock):
    async def longer(state):
        return Draft(state.text + "!")

    graph = StateGraph(graph_of(add_one)._config, Draft)
    graph.add_node("longer", longer)
    graph.set_entry_point("longer")
    graph.set_exit_point("longer")
    async with open_service(store, [graph], config=QUIET) as service:
        run_id = await service.submit("work", Draft("x" * 3_000_000))
        assert (await service.result(run_id)).state == Draft("x" * 3_000_000 + "!")
    assert len((await service_client(store, [graph]).result(run_id)).state.text) == 3_000_001


async def test_objects_say_what_they_are(store, graph_of, autojump_clock):
    from trioflow import Service, ServiceClient

    async with open_service(store, [graph_of(add_one)], config=QUIET) as service:
        assert repr(service) == "<Service: <engine of work: 0 runs>>"
    assert repr(service_client(store)).startswith("<ServiceClient of <MemoryStore")
    for kind in (Service, ServiceClient):
        with pytest.raises(TypeError):
            kind()


async def test_every_call_is_a_checkpoint(store, graph_of, nothing, autojump_clock):
    from trio.testing import assert_checkpoints

    from trioflow import durable_sleep, wait_for_signal

    async def work(state):
        with assert_checkpoints():
            await durable_sleep(0)
        with assert_checkpoints():
            await wait_for_signal("go")
        return state

    async with open_service(store, [graph_of(work)], config=QUIET) as service:
        with assert_checkpoints():
            await service.submit("work", nothing, "r")
        with assert_checkpoints():
            await service.signal("r", "go")
        with assert_checkpoints():
            await service.result("r")
        with assert_checkpoints():
            await service.result("r")
        with assert_checkpoints():
            await service.cancel("r")


async def test_a_result_that_is_there_does_not_wait_for_those_of_others(store, graph_of, nothing, autojump_clock):
    async def work(state):
        await trio.sleep(0 if state["id"] == "short" else 1_000)
        return state

    async with open_service(store, [graph_of(work)], config=ServiceConfig(observer="noop")) as service:
        for name in ("short", "long"):
            await service.submit("work", State(id=name), run_id=name)
        await service.result("short")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.result, "long")
            await trio.sleep(10)
            began = trio.current_time()
            for _ in range(3):
                await service.result("short")
            assert trio.current_time() - began <= 1
            nursery.cancel_scope.cancel()
        # Whoever had looked for all is gone, and the next one looks by itself.
        began = trio.current_time()
        await service.result("long")
        assert trio.current_time() - began < 1_000

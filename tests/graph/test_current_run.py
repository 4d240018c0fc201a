"""`current_run()`: what a node or a step may know of itself."""

import itertools
import pickle

import msgspec
import pytest
import trio

from trioflow import (
    ChainConfig,
    ConfigError,
    ExecutionError,
    GraphConfig,
    MemoryStore,
    ParallelConfig,
    RecordingObserver,
    RetryConfig,
    State,
    StateGraph,
    current_run,
    pause,
    process_chain,
    process_parallel,
)


class Seen(list):
    async def node(self, state):
        self.append(current_run())
        return state


@pytest.fixture
def seen():
    return Seen()


def make(*fns, store=None, observer=None, **settings):
    graph = StateGraph(GraphConfig(name="g", observer="noop", **settings), store=store, observer=observer)
    names = [f"n{index}" for index in range(len(fns))]
    for name, fn in zip(names, fns, strict=True):
        graph.add_node(name, fn)
    for source, target in itertools.pairwise(names):
        graph.add_edge(source, target)
    graph.set_entry_point(names[0])
    graph.set_exit_point(names[-1])
    return graph


async def test_a_node_knows_where_it_is(seen):
    await make(seen.node, seen.node).execute(State(), run_id="r")
    places = [(c.run_id, c.kind, c.name, c.node, c.index, c.step, c.attempt) for c in seen]
    assert places == [("r", "graph", "g", "n0", None, 0, 1), ("r", "graph", "g", "n1", None, 1, 1)]


async def test_a_step_of_a_chain_knows_where_it_is(seen):
    async def step(item, state):
        seen.append(current_run())
        return state

    await process_chain("ab", 0, step, config=ChainConfig(observer="noop"), run_id="c")
    places = [(c.run_id, c.kind, c.name, c.node, c.index, c.step, c.attempt) for c in seen]
    assert places == [("c", "chain", None, None, None, 0, 1), ("c", "chain", None, None, None, 1, 1)]


async def test_the_tasks_that_a_node_starts_see_it_too(seen):
    async def node(state):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seen.node, state)
        return state

    await make(node).execute(State(), run_id="r")
    assert seen[0].node == "n0"


async def test_outside_of_a_run_there_is_none(seen):
    with pytest.raises(RuntimeError, match="while a run calls them"):
        current_run()

    def ready(state):
        with pytest.raises(RuntimeError):
            current_run()
        return True

    graph = make(seen.node, seen.node)
    graph._edges[0] = msgspec.structs.replace(graph._edges[0], when=ready)
    await graph.execute(State())

    def items():
        with pytest.raises(RuntimeError):
            current_run()
        yield 1

    async def step(item, state):
        current_run()
        return state

    def progress(*args):
        with pytest.raises(RuntimeError):
            current_run()

    await process_chain(items(), 0, step, config=ChainConfig(observer="noop"), progress=progress)
    async with graph.open_run(State()) as steps:
        await anext(steps)
        with pytest.raises(RuntimeError):
            current_run()


async def test_the_key_is_the_same_over_attempts(seen, autojump_clock):
    async def node(state):
        seen.append(current_run())
        if len(seen) < 3:
            raise ValueError
        return state

    await make(node, retry=RetryConfig(max_attempts=3)).execute(State())
    assert [context.attempt for context in seen] == [1, 2, 3]
    assert len({context.key for context in seen}) == 1


async def test_the_key_is_the_same_over_resumes_and_processes(seen):
    async def fails(state):
        seen.append(current_run())
        raise ValueError

    store = MemoryStore()
    for _ in range(2):
        with pytest.raises(ExecutionError):
            await (make(seen.node, fails, store=store).resume("r") if seen else
                   make(seen.node, fails, store=store).execute(State(), run_id="r"))
    assert [context.node for context in seen] == ["n0", "n1", "n1"]
    assert seen[1].key == seen[2].key
    code = (
        "import trio, trioflow\n"
        "async def node(state): print(trioflow.current_run().key); return state\n"
        "graph = trioflow.StateGraph(trioflow.GraphConfig(name='g', observer='noop'))\n"
        "graph.add_node('n0', node)\n"
        "graph.set_entry_point('n0')\n"
        "graph.set_exit_point('n0')\n"
        "trio.run(graph.execute, trioflow.State(), 'r')\n"
    )
    import sys

    done = await trio.run_process([sys.executable, "-P", "-c", code], capture_stdout=True)
    assert done.stdout.decode().strip() == seen[0].key


async def test_the_key_is_the_same_over_a_pause_in_memory(seen):
    async def ask(state):
        seen.append(current_run())
        return pause() if "answer" not in state else state

    graph = make(seen.node, ask)
    paused = await graph.execute(State())
    await graph.resume(paused.run_id, update=lambda state: state.set("answer", 1))
    assert seen[1].key == seen[2].key


async def test_the_key_differs_between_runs_nodes_visits_and_forks(seen):
    async def count(state):
        seen.append(current_run())
        return state.set("n", state.get("n", 0) + 1)

    graph = StateGraph(GraphConfig(name="g", observer="noop"), store=MemoryStore())
    graph.add_node("count", count)
    graph.add_node("done", seen.node)
    graph.add_edge("count", "count", lambda state: state["n"] < 2)
    graph.add_edge("count", "done")
    graph.set_entry_point("count")
    graph.set_exit_point("done")
    await graph.execute(State(), run_id="r")
    await graph.execute(State(), run_id="s")
    with pytest.raises(Exception):  # noqa: B017 - it was forgotten
        await graph.resume("r", step=0, as_run_id="f")
    await process_chain("ab", 0, chain_step(seen), config=ChainConfig(observer="noop"), run_id="r")
    assert len({context.key for context in seen}) == len(seen) == 8
    assert {context.key for context in seen if not context.key.isascii()} == set()


def chain_step(seen):
    async def step(item, state):
        seen.append(current_run())
        return state

    return step


async def test_emit_tells_the_observers_of_the_run(seen):
    observer = RecordingObserver()

    async def node(state):
        current_run().emit("token", text="hello", index=0)
        return state

    await make(node, observer=observer).execute(State(), run_id="r")
    [event] = [event for event in observer.events if event.type == "custom"]
    assert (event.source, event.run_id) == ("graph", "r")
    assert event.data == {"name": "token", "data": {"text": "hello", "index": 0}}


async def test_emit_without_a_name_is_refused_and_in_silence_does_nothing(seen):
    async def node(state):
        current_run().emit("x", a=1)
        with pytest.raises(ConfigError):
            current_run().emit("")
        return state

    await make(node).execute(State())


async def test_in_another_process_it_can_be_read_but_not_emit(seen):
    await make(seen.node).execute(State(), run_id="r")
    there = pickle.loads(pickle.dumps(seen[0]))
    assert there == seen[0]
    with pytest.raises(RuntimeError, match="another process"):
        there.emit("x")


async def test_a_run_inside_a_run_is_the_inner_one(seen):
    from trioflow import chain_node, graph_node

    inner = make(seen.node)
    outer = make(
        graph_node(inner, lambda state: state, lambda outer, inner: inner), chain_node(chain_step(seen), items="a")
    )
    await outer.execute(State(), run_id="r")
    assert [(context.run_id, context.kind) for context in seen] == [("r..0/n0", "graph"), ("r..1/n1", "chain")]


async def test_a_source_inside_another_run_is_no_piece_of_its_work():
    async def items():
        with pytest.raises(RuntimeError):
            current_run()
        await process_chain([1], 0, step, config=ChainConfig(observer="noop"), observer=observer)
        yield 1

    def plain():
        with pytest.raises(RuntimeError):
            current_run()
        yield 1

    async def step(item, state):
        return state

    async def work(item):
        assert current_run().kind == "parallel"
        return item

    async def node(state):
        for source in (items(), plain()):
            await process_parallel(source, work, config=ParallelConfig(observer="noop"))
            assert current_run().node == "n0"
        return state

    observer = RecordingObserver()
    await make(node).execute(State(), run_id="r")
    parents = {event.parent for event in observer.events}
    assert parents == {"r"}

"""What is changed from the page: answers and cancellations, who may, and what is left as it is."""

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date

import pytest

pytest.importorskip("starlette", reason="the page needs the extra ui")
pytest.importorskip("hypercorn", reason="the page needs the extra ui")

import httpx
import msgspec
import trio

from trioflow import (
    CheckpointConfig,
    CheckpointConflictError,
    ConfigError,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    graph_node,
    pause,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.ui._access import CHANGE_HEADER
from trioflow.ui._app import make_app
from trioflow.ui._changes import Changes, _merged
from trioflow.ui._reader import Reader
from trioflow.ui._views import Views

KEPT = CheckpointConfig(preserve=True)


def letter(store, name="letter"):
    graph = StateGraph(GraphConfig(name=name, observer="noop", checkpoint=KEPT), store=store)

    @graph.node
    async def ask(state):
        if "answer" not in state:
            pause({"question": "secret?"})
        return state

    @graph.node
    async def send(state):
        if state["answer"] == "fail":
            raise OSError("secret is lost")
        await trio.sleep(state.get("slow", 0))
        return state.set("sent", True)

    graph.set_entry_point("ask")
    graph.add_edge("ask", "send")
    graph.set_exit_point("send")
    return graph


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "runs.db") as opened:
        yield opened


@asynccontextmanager
async def page(store, graphs, *, show_data=False):
    url = f"sqlite:///{store._path}"
    async with trio.open_nursery() as nursery:
        changes = Changes(url, graphs, nursery, show_data=show_data)
        app = make_app(Views(Reader(url), graphs, show_data=show_data), "runs", changes)
        headers = {CHANGE_HEADER: changes.secret, "origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8765", headers=headers) as client:
            yield client, changes
        nursery.cancel_scope.cancel()


async def look(client, run_id):
    await trio.sleep(1)  # an answer serves for a while
    return (await client.get("/api/run", params={"id": run_id})).json()


async def until(store, run_id, status):
    with trio.fail_after(20):
        while (await store.load(run_id)).status != status:  # noqa: ASYNC110 - it is another task, by way of a file
            await trio.sleep(0.01)


async def test_an_answer_goes_on_with_the_run(store):
    graph = letter(store)
    await graph.execute(State(to="Ada"), "run-1")
    async with page(store, [graph]) as (client, changes):
        found = await look(client, "run-1")
        assert found["changes"] == {"answer": True, "cancel": True, "why_not": "", "note": "", "secret": changes.secret}
        assert (found["waits_at"], found["data"]) == ("ask", None)
        answer = await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {"answer": "yes"}})
        assert (answer.status_code, answer.json()) == (200, {"done": "answered: the run continues, in the page's process"})
        await until(store, "run-1", "completed")
        state = msgspec.msgpack.decode((await store.load("run-1")).state)
        assert state == {"to": "Ada", "answer": "yes", "sent": True}
        found = await look(client, "run-1")
        assert (found["changes"]["answer"], found["changes"]["cancel"]) == (False, False)
        assert found["changes"]["note"] == "The page answered and resumed the run: completed."


async def test_a_run_that_fails_then_is_said_with_what_may_be_shown(store):
    graph = letter(store)
    for show_data, shown in ((False, ""), (True, ": secret is lost")):
        run_id = f"run-{show_data}"
        await graph.execute(State(), run_id)
        async with page(store, [graph], show_data=show_data) as (client, _):
            await client.post("/api/answer", json={"id": run_id, "step": 0, "update": {"answer": "fail"}})
            await until(store, run_id, "failed")
            found = await look(client, run_id)
            assert found["failed_at"] == "send"
            expected = "The page answered and resumed the run: it failed with ExecutionError, from OSError"
            assert found["changes"]["note"] == f"{expected}{shown}."


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"id": "run-1", "step": 1, "update": {"answer": "yes"}}, 409, "has continued meanwhile"),
        ({"id": "nope", "step": 0, "update": {}}, 404, "nope"),
        ({"id": "other-1", "step": 0, "update": {}}, 422, "start it with --graph"),
        ({"id": "run-1", "step": 0, "update": [1]}, 422, "not a valid change"),
        ({"id": "run-1", "step": 0}, 422, "JSON object"),
        ({"id": "run-1", "step": 0, "update": {}, "more": 1}, 422, "not a valid change"),
        ({"id": 3}, 422, "not a valid change"),
        ([], 422, "not a valid change"),
        ({"id": "run-1", "step": 0, "update": {"long": "x" * (1 << 20)}}, 422, "at most"),
    ],
)
async def test_an_answer_that_cannot_be_changes_nothing(store, change, status, error):
    graph = letter(store)
    await graph.execute(State(), "run-1")
    await letter(store, "other").execute(State(), "other-1")
    before = [await store.load("run-1"), await store.load("other-1")]
    async with page(store, [graph]) as (client, _):
        answer = await client.post("/api/answer", json=change)
        assert answer.status_code == status
        assert error in answer.json()["error"]
        assert "--graph" in (await look(client, "other-1"))["changes"]["why_not"]
    assert [await store.load("run-1"), await store.load("other-1")] == before


async def test_two_answers_are_one(store):
    graph = letter(store)
    await graph.execute(State(), "run-1")
    answers = []

    async def answer(client):
        change = {"id": "run-1", "step": 0, "update": {"answer": "yes", "slow": 1}}
        answers.append((await client.post("/api/answer", json=change)).status_code)

    async with page(store, [graph]) as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(answer, client)
        assert sorted(answers) == [200, 409, 409, 409, 409]
        await until(store, "run-1", "completed")


async def test_a_graph_that_keeps_its_runs_elsewhere_is_said(store, tmp_path):
    await letter(store).execute(State(), "run-1")
    async with SqliteStore(tmp_path / "elsewhere.db") as elsewhere:
        for graph in (letter(elsewhere), letter(None)):
            async with page(store, [graph]) as (client, _):
                answer = await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {"answer": "yes"}})
                assert answer.status_code == 404
                assert "the graph must keep its runs in the store that the page shows" in answer.json()["error"]
    assert (await store.load("run-1")).status == "paused"


async def test_an_answer_to_a_run_that_was_completed_just_then_is_refused(store):
    graph = letter(store)
    await graph.execute(State(), "run-1")

    class Late:
        """The graph, whose run somebody else completes before it is resumed here."""

        name = "letter"
        drawing = graph.drawing
        to_mermaid = graph.to_mermaid

        async def resume(self, run_id, *, update):
            await graph.resume(run_id, update=lambda state: state.set("answer", "no"))
            return await graph.resume(run_id, update=update)

    async with page(store, [Late()]) as (client, _):
        answer = await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {"answer": "yes"}})
        assert (answer.status_code, "has continued meanwhile" in answer.json()["error"]) == (409, True)
        assert (await look(client, "run-1"))["changes"]["note"] == ""
    assert msgspec.msgpack.decode((await store.load("run-1")).state)["answer"] == "no"


async def test_a_graph_that_cannot_run_is_said(store):
    class Broken:
        """A graph that raises what is nobody's."""

        name = "letter"

        async def resume(self, run_id, *, update):
            raise OSError("secret is lost")

    await letter(store).execute(State(), "run-1")
    async with page(store, [Broken()]) as (client, _):
        answer = await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {}})
        assert answer.status_code == 503
        assert answer.json() == {"error": "the run did not continue: it failed with OSError"}
        # It can be answered again.
        assert (await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {}})).status_code == 503


async def test_a_pause_inside_another_run_is_answered_there(store):
    outer = StateGraph(GraphConfig(name="outer", observer="noop", checkpoint=KEPT), store=store)
    outer.add_node("inner", graph_node(letter(None), lambda state: state, lambda state, inner: inner))
    outer.set_entry_point("inner")
    outer.set_exit_point("inner")
    assert (await outer.execute(State(), "run-1")).status == "paused"
    inner = next(run.run_id for run in await store.list_runs() if run.parent)
    async with page(store, [outer, letter(None)]) as (client, _):
        allowed = (await look(client, inner))["changes"]
        assert (allowed["answer"], allowed["cancel"]) == (False, False)
        assert allowed["why_not"] == "It is inside run-1: answer there."
        answer = await client.post("/api/cancel", json={"id": inner})
        assert (answer.status_code, "cancel that one" in answer.json()["error"]) == (409, True)
        await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {"answer": "yes"}})
        await until(store, "run-1", "completed")


async def test_a_run_is_taken_from_whoever_has_it(store):
    graph = letter(store)
    caught = []

    async def work():
        try:
            await graph.execute(State(answer="yes", slow=1), "run-1")
        except* CheckpointConflictError as group:
            caught.append(group)

    async with page(store, []) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.fail_after(20):
            while not [run for run in await store.list_runs() if run.step]:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        answer = await client.post("/api/cancel", json={"id": "run-1"})
        assert answer.json() == {"done": "cancelled: its former holder can save no more"}
    assert len(caught) == 1
    latest = await store.load("run-1")
    assert (latest.status, latest.next_node, latest.step) == ("cancelled", "send", 1)
    assert (await graph.resume("run-1")).status == "completed"


async def test_a_paused_run_and_those_inside_it_are_cancelled_together(store):
    outer = StateGraph(GraphConfig(name="outer", observer="noop", checkpoint=KEPT), store=store)
    outer.add_node("inner", graph_node(letter(None), lambda state: state, lambda state, inner: inner))
    outer.set_entry_point("inner")
    outer.set_exit_point("inner")
    await outer.execute(State(), "run-1")
    async with page(store, [outer]) as (client, _):
        assert (await client.post("/api/cancel", json={"id": "run-1"})).status_code == 200
        assert [run.status for run in await store.list_runs()] == ["cancelled", "cancelled"]
        assert (await store.load("run-1")).pause is None
        assert (await client.post("/api/cancel", json={"id": "run-1"})).status_code == 409
    result = await outer.resume("run-1", update=lambda state: state.set("answer", "yes"))
    assert (result.status, result.state["sent"]) == ("completed", True)


async def test_a_run_that_the_page_goes_on_with_is_cancelled(store):
    graph = letter(store)
    await graph.execute(State(), "run-1")
    async with page(store, [graph]) as (client, _):
        await client.post("/api/answer", json={"id": "run-1", "step": 0, "update": {"answer": "yes", "slow": 1000}})
        with trio.fail_after(20):
            assert (await client.post("/api/cancel", json={"id": "run-1"})).status_code == 200
        assert (await store.load("run-1")).status == "cancelled"
        assert "Cancelled from the page" in (await look(client, "run-1"))["changes"]["note"]


async def test_what_cannot_be_cancelled_is_left(store):
    async def work(item):
        return item

    graph = letter(store)
    await graph.execute(State(answer="yes"), "done")
    await process_parallel([1], work, config=ParallelConfig(observer="noop", checkpoint=KEPT), store=store, run_id="fan")
    await store.save_items("items", await store.claim("items"), [("a", b"")])
    before = await store.list_runs()
    async with page(store, [graph]) as (client, _):
        for run_id, status in (("done", 409), ("fan", 409), ("items", 409), ("nope", 404)):
            assert (await client.post("/api/cancel", json={"id": run_id})).status_code == status
        assert not (await look(client, "items"))["changes"]["cancel"]
    assert await store.list_runs() == before


@pytest.mark.parametrize(
    "headers",
    [
        {CHANGE_HEADER: ""},
        {CHANGE_HEADER: "x" * 43},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_only_the_page_itself_may_change(store, headers):
    graph = letter(store)
    await graph.execute(State(), "run-1")
    async with page(store, [graph]) as (client, _):
        for what in ("answer", "cancel"):
            answer = await client.post(f"/api/{what}", json={"id": "run-1", "step": 0, "update": {}}, headers=headers)
            assert answer.status_code == 403
            assert (await client.get(f"/api/{what}")).status_code == 405
    assert (await store.load("run-1")).status == "paused"


async def test_nothing_is_changed_unless_that_was_asked_for(store):
    await letter(store).execute(State(), "run-1")
    url = f"sqlite:///{store._path}"
    app = make_app(Views(Reader(url), [letter(store)], show_data=True), "runs")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8765") as client:
        assert (await client.get("/api/run?id=run-1")).json()["changes"] is None
        for what in ("answer", "cancel"):
            answer = await client.post(f"/api/{what}", json={"id": "run-1", "step": 0, "update": {}}, headers={CHANGE_HEADER: ""})
            assert answer.status_code == 403
            assert "--write" in answer.json()["error"]
    assert (await store.load("run-1")).status == "paused"


class Typed(msgspec.Struct):
    to: str
    due: date | None = None


@dataclass(frozen=True)
class Plain:
    to: str
    due: date | None = None


def test_values_become_what_the_state_says():
    for kind in (Typed, Plain):
        assert _merged(kind("Ada"), {"due": "2026-01-31"}) == kind("Ada", date(2026, 1, 31))
        for wrong in ({"due": "soon"}, {"to": 3}, {"from": "Bob"}):
            with pytest.raises(ConfigError):
                _merged(kind("Ada"), wrong)


def test_values_become_what_a_model_says():
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        to: str
        due: date | None = None

    assert _merged(Model(to="Ada"), {"due": "2026-01-31"}) == Model(to="Ada", due=date(2026, 1, 31))
    for wrong in ({"due": "soon"}, {"to": 3}, {"from": "Bob"}):
        with pytest.raises(ConfigError):
            _merged(Model(to="Ada"), wrong)

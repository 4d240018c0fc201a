"""The page of runs: what it answers, what it keeps to itself, and that looking changes nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the page needs the extra ui")
pytest.importorskip("hypercorn", reason="the page needs the extra ui")

import apsw
import httpx
import trio

import trioflow.ui
from trioflow import (
    ChainConfig,
    CheckpointConfig,
    CheckpointStoreError,
    ConfigError,
    ExecutionError,
    GraphConfig,
    ParallelConfig,
    ParallelError,
    ServiceConfig,
    State,
    StateGraph,
    open_service,
    parallel_node,
    pause,
    process_chain,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.ui import _reader, _views, serve_page
from trioflow.ui._app import make_app
from trioflow.ui._reader import Reader
from trioflow.ui._serving import shown_url
from trioflow.ui._views import Views

HOSTILE = "<script>alert(1)</script>\u202e"


def letter(store=None):
    graph = StateGraph(GraphConfig(name="letter", observer="noop"), store=store)

    @graph.node
    async def draft(state):
        return state.set("tries", state.get("tries", 0) + 1)

    @graph.node
    async def ask(state):
        pause({"question": "secret send?"})

    @graph.node("unused <b>")
    async def unused(state):
        return state

    graph.set_entry_point("draft")
    graph.add_edge("draft", "draft", lambda state: state["tries"] < 3, "again")
    graph.add_edge("draft", "unused <b>", lambda state: False, "never")
    graph.add_edge("draft", "ask")
    graph.add_error_edge("ask", "draft")
    graph.set_exit_point("ask")
    graph.set_exit_point("unused <b>")
    return graph


@pytest.fixture
def path(tmp_path):
    trio.run(fill, tmp_path / "runs.db")
    return tmp_path / "runs.db"


async def fill(path):
    async def work(item):
        return f"secret {item}"

    async def add(item, state):
        return state + item

    kept = CheckpointConfig(preserve=True)
    config = ParallelConfig(observer="noop", checkpoint=kept)
    async with SqliteStore(path) as store:
        await letter(store).execute(State(to="secret Ada"), run_id="letter-1")
        await process_parallel(range(12), work, config=config, store=store, run_id="fan-1")
        await process_parallel([HOSTILE], work, config=config, store=store, run_id="<img>", key=str)
        chain = ChainConfig(observer="noop", checkpoint=kept)
        await process_chain([1, 2], 0, add, config=chain, store=store, run_id="chain-1")
        epoch = await store.claim("top")
        await store.save_items("top", epoch, [("a", b"")])
        inner = await store.claim("top/inner", parent=("top", epoch))
        await store.save_items("top/inner", inner, [("b", b"\xc1")])


def client_of(path, graphs=(), *, show_data=False):
    app = make_app(Views(Reader(f"sqlite:///{path}"), graphs, show_data=show_data), "sqlite:///runs.db")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8765")


async def ask(client, url):
    answer = await client.get(url)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_runs_are_listed_newest_first_with_those_inside_them(path):
    async with client_of(path) as client:
        found = await ask(client, "/api/runs")
        assert found["store"] == "sqlite:///runs.db"
        shown = [(run["id"], run["depth"], run["kind"], run["status"], run["items"]) for run in found["runs"]]
        assert shown == [
            ("top", 0, "", "running", 1),
            ("top/inner", 1, "", "running", 1),
            ("chain-1", 0, "chain", "completed", 0),
            ("<img>", 0, "parallel", "completed", 1),
            ("fan-1", 0, "parallel", "completed", 12),
            ("letter-1", 0, "graph", "paused", 0),
        ]
        assert found["counts"] == {"running": 2, "completed": 3, "paused": 1}
        assert found["total"] == 5


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("text=FAN-1", ["fan-1"]),
        ("text=inner", ["top", "top/inner"]),
        ("text=letter", ["letter-1"]),
        ("status=completed", ["chain-1", "<img>", "fan-1"]),
        ("status=nonsense", []),
        ("offset=4", ["letter-1"]),
        ("offset=nonsense", ["top", "top/inner", "chain-1", "<img>", "fan-1", "letter-1"]),
        ("offset=-1", ["top", "top/inner", "chain-1", "<img>", "fan-1", "letter-1"]),
    ],
)
async def test_runs_are_looked_for(path, query, ids):
    async with client_of(path) as client:
        assert [run["id"] for run in (await ask(client, f"/api/runs?{query}"))["runs"]] == ids


async def test_a_long_list_comes_in_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(_views, "RUNS", 2)
    async with SqliteStore(tmp_path / "runs.db") as store:
        for number in range(5):
            await store.save_items(f"r{number}", await store.claim(f"r{number}"), [("a", b"")])
    async with client_of(tmp_path / "runs.db") as client:
        for offset, ids in ((0, ["r4", "r3"]), (2, ["r2", "r1"]), (4, ["r0"]), (6, [])):
            found = await ask(client, f"/api/runs?offset={offset}")
            assert [run["id"] for run in found["runs"]] == ids
            assert (found["total"], found["limit"]) == (5, 2)


async def test_a_run_is_shown_with_its_steps_and_picture(path):
    async with client_of(path) as client:
        found = await ask(client, "/api/run?id=letter-1")
    assert found["run"]["status"] == "paused"
    assert [(step["step"], step["node"], step["next_node"]) for step in found["steps"]] == [
        (3, "draft", "ask"), (2, "draft", "draft"), (1, "draft", "draft"), (0, "", "draft"),
    ]  # fmt: skip
    assert all(step["seconds"] >= 0 for step in found["steps"])
    picture = found["picture"]
    assert [(node["name"], node["visits"]) for node in picture["nodes"]] == [("draft", 3), ("ask", 0)]
    assert [(way["source"], way["target"], way["taken"]) for way in picture["ways"]] == [(0, 0, 2), (0, 1, 1)]
    assert (picture["current"], picture["mermaid"]) == (1, None)


async def test_a_graph_that_is_known_is_drawn_whole(path):
    async with client_of(path, [letter()]) as client:
        picture = (await ask(client, "/api/run?id=letter-1"))["picture"]
        assert (await ask(client, "/api/run?id=fan-1"))["picture"] is None
    nodes = [(node["name"], node["visits"], node["entry"], node["exit"]) for node in picture["nodes"]]
    assert nodes == [("draft", 3, True, False), ("unused <b>", 0, False, True), ("ask", 0, False, True)]
    ways = {(way["source"], way["target"]): (way["label"], way["error"], way["taken"]) for way in picture["ways"]}
    assert ways == {(0, 0): ("again", False, 2), (0, 1): ("never", False, 0), (0, 2): ("", False, 1), (2, 0): ("on Exception", True, 0)}
    assert picture["current"] == 2
    assert picture["mermaid"].startswith("flowchart TD")


async def test_a_tree_and_what_is_around_it(path):
    async with client_of(path) as client:
        assert [run["id"] for run in (await ask(client, "/api/run?id=top"))["inside"]] == ["top/inner"]
        assert (await ask(client, "/api/run?id=top/inner"))["run"]["parent"] == "top"


async def test_items_are_listed_in_order_and_in_pages(path, monkeypatch):
    monkeypatch.setattr(_views, "ITEMS", 5)
    async with client_of(path) as client:
        found = await ask(client, "/api/items?id=fan-1&offset=5")
        assert [item["key"] for item in found["items"]] == ["5", "6", "7", "8", "9"]
        assert (found["total"], found["offset"]) == (12, 5)
        assert (await ask(client, "/api/items?id=nope"))["total"] == 0


async def test_items_by_name_come_before_those_by_number(path):
    keys = ["10", "9", "b", "a", "9" * 5_000]
    async with SqliteStore(path) as store:
        await store.save_items("named", await store.claim("named"), [(key, b"") for key in keys])
    async with client_of(path) as client:
        items = (await ask(client, "/api/items?id=named"))["items"]
    assert [item["key"][:10] for item in items] == ["9999999999", "a", "b", "9", "10"]


async def test_how_many_items_a_fan_out_has_is_known(path):
    async with client_of(path) as client:
        totals = {run["id"]: run["total"] for run in (await ask(client, "/api/runs"))["runs"]}
        assert totals == {"top": None, "top/inner": None, "chain-1": None, "<img>": 1, "fan-1": 12, "letter-1": None}
        assert (await ask(client, "/api/run?id=fan-1"))["total"] == 12


async def test_the_error_of_a_run_in_a_service_is_shown_only_where_that_is_asked_for(tmp_path):
    path = tmp_path / "runs.db"
    graph = StateGraph(GraphConfig(name="letter", observer="noop"))

    @graph.node
    async def draft(state):
        if "secret" in state:
            raise ValueError(f"cannot write of {state['secret']}")
        pause()

    graph.set_entry_point("draft")
    graph.set_exit_point("draft")
    config = ServiceConfig(observer="noop", poll=0.05)
    async with SqliteStore(path) as store, open_service(store, [graph], config=config) as service:
        await service.submit("letter", State(secret="a hush"), run_id="failed")
        await service.submit("letter", State(), run_id="waits")
        with pytest.raises(ExecutionError):
            await service.result("failed")
        with trio.fail_after(20):
            while (await store.look("waits")).status != "paused":  # noqa: ASYNC110 - the store has no event
                await trio.sleep(0.01)
    for show_data in (False, True):
        async with client_of(path, show_data=show_data) as client:
            found = (await client.get("/api/run", params={"id": "failed"})).json()
            waits = (await client.get("/api/run", params={"id": "waits"})).json()
        assert found["failed_at"] == "draft"
        assert found["reason"] == ("execution failed at node draft: cannot write of a hush" if show_data else "")
        assert ("hush" in json.dumps(found)) == show_data
        assert waits["reason"] == "waits for the signal 'resume'"


async def test_what_failed_is_shown_by_category_and_the_messages_only_where_that_is_asked_for(path):
    await run_partly(path)
    by_type = [{"type": "OSError", "count": 2, "first": "3"}, {"type": "ValueError", "count": 1, "first": "0"}]
    messages = ["secret route", "secret 0"]
    for show_data in (False, True):
        async with client_of(path, show_data=show_data) as client:
            found = await ask(client, "/api/run?id=partly")
        assert (found["run"]["status"], found["run"]["items"], found["total"]) == ("failed", 6, 9)
        assert found["failures"] == {
            "failed": 3, "other": 0, "unfinished": 0,
            "categories": [each | {"message": message if show_data else None} for each, message in zip(by_type, messages, strict=True)],
        }  # fmt: skip
        assert ("secret" in json.dumps(found)) == show_data


async def test_failures_are_known_only_of_fan_outs_that_have_some(path):
    async with client_of(path) as client:
        for run_id in ("fan-1", "letter-1", "chain-1", "top"):
            assert (await ask(client, f"/api/run?id={run_id}"))["failures"] is None
        assert (await ask(client, "/api/run?id=top"))["inside_states"] == {"running": 1}


async def test_a_failed_item_is_named_by_its_key_and_what_is_unfinished_is_said_where_it_is_known(path):
    await run_partly(path, run_id="named", key=lambda item: f"key {item}")
    await run_partly(path, run_id="cut", fail_fast=True, max_workers=1)
    async with client_of(path) as client:
        named, cut = [(await ask(client, f"/api/run?id={run_id}"))["failures"] for run_id in ("named", "cut")]
    assert ([each["first"] for each in named["categories"]], named["unfinished"]) == (["key 3", "key 0"], None)
    assert (cut["failed"], cut["unfinished"]) == (1, 8)


async def test_failures_that_fit_in_no_category_are_counted(path):
    async def fail(item):
        raise ValueError(str(item))

    async with SqliteStore(path) as store:
        config = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False)
        await process_parallel(range(130), fail, config=config, store=store, run_id="all")
    async with client_of(path) as client:
        failures = (await ask(client, "/api/run?id=all"))["failures"]
    assert (failures["failed"], failures["other"], len(failures["categories"])) == (130, 30, 100)


async def test_the_list_says_how_many_items_of_a_fan_out_have_failed(path, autojump_clock):
    await run_partly(path)
    async with client_of(path) as client:
        failed = {run["id"]: run["failed"] for run in (await ask(client, "/api/runs"))["runs"]}
        assert failed == {"partly": 3, "top": 0, "top/inner": 0, "chain-1": 0, "<img>": 0, "fan-1": 0, "letter-1": 0}
        await trio.sleep(100)
        await run_partly(path, failing=(6,))
        (run,) = [run for run in (await ask(client, "/api/runs"))["runs"] if run["id"] == "partly"]
        assert (run["failed"], run["total"], run["items"]) == (1, 9, 8)


async def test_the_children_of_a_run_say_how_many_items_have_failed(path):
    async with SqliteStore(path) as store:
        graph = StateGraph(GraphConfig(name="outer", observer="noop"), store=store)
        graph.add_node("fan", parallel_node(partly(), items=range(9), aggregate=lambda state, result: state, config=ParallelConfig(max_failures=5)))
        graph.add_node("wait", wait)
        graph.add_edge("fan", "wait")
        graph.set_entry_point("fan")
        graph.set_exit_point("wait")
        await graph.execute(State(), run_id="outer")
    async with client_of(path) as client:
        (inside,) = (await ask(client, "/api/run?id=outer"))["inside"]
    assert (inside["failed"], inside["total"], inside["items"]) == (3, 9, 6)


async def wait(state):
    pause()


async def test_hostile_failures_are_text(path):
    kind = type(HOSTILE, (Exception,), {})

    async def fail(item):
        raise kind(f"{HOSTILE}\n{'x' * 2_000}")

    async with SqliteStore(path) as store:
        config = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False)
        await process_parallel([HOSTILE], fail, config=config, store=store, run_id="hostile", key=str)
    async with client_of(path, show_data=True) as client:
        (category,) = (await ask(client, "/api/run?id=hostile"))["failures"]["categories"]
    shown = "<script>alert(1)</script>\\u202e"
    assert (category["type"], category["first"]) == (shown, shown)
    assert category["message"].startswith(f"{shown}\\nxxx")
    assert len(category["message"]) == 1_000


def partly(failing=(0, 3, 6)):
    async def work(item):
        if item in failing:
            raise (OSError if item else ValueError)("secret route" if item else "secret 0")
        return item

    return work


async def run_partly(path, *, run_id="partly", failing=(0, 3, 6), key=None, fail_fast=False, max_workers=4):
    config = ParallelConfig(observer="noop", fail_fast=fail_fast, max_workers=max_workers)
    async with SqliteStore(path) as store:
        with suppress(ParallelError):
            await process_parallel(range(9), partly(failing), config=config, store=store, run_id=run_id, key=key)


async def test_no_value_is_shown_unless_that_is_asked_for(path):
    async with client_of(path, [letter()]) as client:
        for url in ("/api/runs", "/api/run?id=letter-1", "/api/run?id=fan-1", "/api/run?id=chain-1", "/api/items?id=fan-1"):
            assert "secret" not in (await client.get(url)).text
    async with client_of(path, show_data=True) as client:
        data = (await ask(client, "/api/run?id=letter-1"))["data"]
        assert json.loads(data["state"]) == {"to": "secret Ada", "tries": 3}
        assert json.loads(data["pause"]) == {"question": "secret send?"}
        items = (await ask(client, "/api/items?id=fan-1"))["items"]
        assert items[3] == {"key": "3", "value": '"secret 3"'}
        assert (await ask(client, "/api/items?id=top/inner"))["items"][0]["value"]


async def test_hostile_names_are_text(path):
    async with client_of(path) as client:
        answer = await client.get("/api/items?id=%3Cimg%3E")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["items"][0]["key"] == "<script>alert(1)</script>\\u202e"
    # What shows it makes text of everything: no way from a string to markup is in the script.
    script = (Path(trioflow.ui.__file__).parent / "page.js").read_text()
    assert not re.search(r"\.(innerHTML|outerHTML)|insertAdjacentHTML|document\.write|\beval\(|Function\(", script.split('"use strict"')[1])


async def test_the_browser_is_told_to_run_nothing_else(path):
    async with client_of(path) as client:
        for url in ("/", "/page.js", "/page.css", "/api/runs"):
            answer = await client.get(url)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
        page = (await client.get("/")).text
        assert not re.search(r"https?://|<script>|<style|\son\w+=|style=", page)


async def test_another_name_or_another_method_is_refused(path):
    async with client_of(path) as client:
        assert (await client.get("/api/runs", headers={"host": "evil.example"})).status_code == 400
        for method in ("POST", "PUT", "DELETE"):
            assert (await client.request(method, "/api/run?id=fan-1")).status_code == 405
        assert (await client.get("/../pyproject.toml")).status_code == 404


async def test_what_is_not_there_is_said(path):
    async with client_of(path) as client:
        answer = await client.get("/api/run?id=nope")
        assert (answer.status_code, answer.json()) == (404, {"error": "there is no run 'nope' in this store"})
        assert (await client.get("/api/run")).status_code == 404


async def test_a_damaged_run_is_shown_as_such_and_blocks_no_other(path):
    db = apsw.Connection(str(path))
    db.execute("UPDATE checkpoints SET node = 'z' WHERE run = (SELECT number FROM runs WHERE run_id = 'letter-1')")
    db.execute("UPDATE items SET value = x'00' WHERE run = (SELECT number FROM runs WHERE run_id = 'fan-1')")
    db.close()
    async with client_of(path) as client:
        assert {run["id"]: run["status"] for run in (await ask(client, "/api/runs"))["runs"]}["letter-1"] == "corrupt"
        assert "is damaged" in (await ask(client, "/api/run?id=letter-1"))["problem"]
        answer = await client.get("/api/items?id=fan-1")
        assert answer.status_code == 503
        assert "is damaged" in answer.json()["error"]
        assert (await ask(client, "/api/run?id=chain-1"))["problem"] is None


async def test_a_store_that_goes_away_is_said_and_seen_again(path, autojump_clock):
    async with client_of(path) as client:
        await ask(client, "/api/runs")
        path.rename(path.with_suffix(".away"))
        await trio.sleep(100)
        answer = await client.get("/api/runs")
        assert answer.status_code == 503
        assert "runs.db" in answer.json()["error"]
        path.with_suffix(".away").rename(path)
        assert (await ask(client, "/api/runs"))["total"] == 5


async def test_what_is_saved_meanwhile_is_seen(path, autojump_clock):
    async with client_of(path) as client, SqliteStore(path) as store:
        assert (await ask(client, "/api/runs"))["total"] == 5
        await store.save_items("new", await store.claim("new"), [("a", b"")])
        await trio.sleep(100)
        assert (await ask(client, "/api/runs"))["total"] == 6
        assert (await ask(client, "/api/run?id=new"))["run"]["items"] == 1


async def test_many_who_ask_cost_one_reading(path, autojump_clock, monkeypatch):
    opened = []

    def counting(url):
        opened.append(url)
        return original(url)

    original = _reader.open_to_look
    monkeypatch.setattr(_reader, "open_to_look", counting)
    async with client_of(path) as client:
        opened.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, client, "/api/runs")
        assert len(opened) == 2  # the list, and the counts of its fan-outs, which none of them has saved again
        await trio.sleep(100)
        await ask(client, "/api/runs")
        assert len(opened) == 3


async def test_answers_that_are_kept_are_bounded(path):
    reader = Reader(f"sqlite:///{path}")

    async def question(store):
        await trio.lowlevel.checkpoint()

    for number in range(100):
        await reader.query(number, question)
    assert repr(reader) == "<Reader with 8 answers>"


async def test_looking_changes_nothing(path):
    def files():
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.parent.iterdir()}

    before = files()
    async with client_of(path, [letter()], show_data=True) as client:
        for url in ("/", "/api/runs", "/api/run?id=letter-1", "/api/items?id=fan-1"):
            assert (await client.get(url)).status_code == 200
    assert files() == before


async def test_ten_thousand_runs_are_listed(tmp_path):
    async with SqliteStore(tmp_path / "runs.db") as store:
        await store.save_items("r", await store.claim("r"), [("a", b"")])
    db = apsw.Connection(str(tmp_path / "runs.db"))
    with db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 10000)"
            " INSERT INTO runs(number, run_id, epoch, items, created_at, updated_at, seal)"
            " SELECT 10 + i, 'r' || i, 1, 1, 1.0, 1.0, x'00' FROM n"
        )
    db.close()
    async with client_of(tmp_path / "runs.db") as client:
        found = await ask(client, "/api/runs")
        assert (found["total"], len(found["runs"])) == (10_001, 200)


# Serving.


async def test_it_is_served_on_loopback_until_it_is_cancelled(path):
    async with trio.open_nursery() as nursery:

        async def served(task_status):
            await serve_page(f"sqlite:///{path}", task_status=task_status)

        address = await nursery.start(served)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await ask(client, "/api/runs"))["total"] == 5
            assert "server" not in (await client.get("/")).headers
            port = int(address.rstrip("/").rpartition(":")[2])
            with pytest.raises(OSError, match="in use"):
                await serve_page(f"sqlite:///{path}", port=port)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("url", "port"), [("nonsense", 0), ("ftp://x", 0), ("sqlite:///x.db", -1), ("sqlite:///x.db", 65536), ("sqlite:///x.db", "8")])
async def test_what_cannot_be_served_is_refused(url, port):
    with pytest.raises(ConfigError):
        await serve_page(url, port=port)


async def test_a_store_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointStoreError):
        await serve_page(f"sqlite:///{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_store_is_shown_without_its_password():
    assert shown_url("postgresql://ada:secret@db.example:5432/runs?password=secret") == "postgresql://db.example/runs"
    assert shown_url("sqlite:///runs.db") == "sqlite:///runs.db"


async def test_without_the_extra_it_names_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "trioflow.ui._serving", raising=False)
    monkeypatch.setitem(sys.modules, "hypercorn", None)
    monkeypatch.setitem(sys.modules, "hypercorn.config", None)
    with pytest.raises(ImportError, match="needs the extra `ui`: pip install 'trioflow\\[ui\\]'"):
        await serve_page("sqlite:///x.db")


@contextmanager
def open_command(path, *flags):
    command = [sys.executable, "-P", "-W", "error", "-m", "trioflow", "ui", "--store", f"sqlite:///{path}", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_traceback(path, number, status):
    with open_command(path) as (process, address):
        with httpx.Client() as client:
            assert client.get(f"{address}api/runs").json()["total"] == 5
            # A window that is open keeps nobody from ending it.
            with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))) as window:
                window.sendall(b"GET /live/runs HTTP/1.1\r\nHost: localhost\r\n\r\n")
                said = b""
                while b"event: found" not in said:
                    said += window.recv(1_000)
                process.send_signal(number)
                out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (status, "", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--store", "sqlite:///nowhere.db"], 1, "store must be"),
        (["--store", "memory"], 2, "store must be"),
        (["--store", "sqlite:///runs.db", "--port", "99999"], 2, "port must be"),
        (["--store", "sqlite:///runs.db", "--graph", "nonsense"], 2, "graph must be"),
        (["--store", "sqlite:///runs.db", "--graph", "nowhere_at_all:graph"], 1, "there is no module"),
        (["--store", "sqlite:///text.db"], 1, "is not a SQLite database"),
        ([], 2, "--store"),
    ],
)
def test_the_command_says_in_a_line_what_it_cannot(path, monkeypatch, capsys, arguments, status, message):
    pytest.importorskip("cyclopts", reason="the command line needs the extra cli")
    from trioflow.cli import main

    monkeypatch.chdir(path.parent)
    Path("text.db").write_text("hello " * 1000)
    assert main(["ui", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


def test_a_port_that_is_taken_is_said_in_a_line(path, capsys):
    pytest.importorskip("cyclopts", reason="the command line needs the extra cli")
    from trioflow.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["ui", "--store", f"sqlite:///{path}", "--port", port]) == 1
    assert capsys.readouterr().err == f"trioflow: the page cannot be served on port {port}: {os.strerror(98)}\n"

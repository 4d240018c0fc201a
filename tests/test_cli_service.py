"""The command line of a service: what is sent to it, and the process that serves."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("cyclopts", reason="the command line needs the extra cli")

import trio

from trioflow import GraphConfig, ServiceConfig, State, StateGraph, open_service, pause, service_client
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.cli import main

MODULE = """
import msgspec, trio
from trioflow import GraphConfig, State, StateGraph, wait_for_signal

class Letter(msgspec.Struct):
    to: str
    count: int = 1

async def ask(state):
    print("asking", flush=True)
    return state.set("got", await wait_for_signal("go"))

async def slow(state):
    print("slow", flush=True)
    await trio.sleep(state["seconds"])
    return state

async def same(state):
    return state

def graph_of(name, node, kind=State):
    graph = StateGraph(GraphConfig(name=name, observer="noop"), kind)
    graph.add_node("node", node)
    graph.set_entry_point("node")
    graph.set_exit_point("node")
    return graph

asks, slows, letters = graph_of("asks", ask), graph_of("slows", slow), graph_of("letters", same, Letter)
graphs = [asks, slows, letters]
named = {"one": asks}
other = 5
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    (tmp_path / "served_graphs.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "served_graphs", raising=False)
    return tmp_path


@pytest.fixture
def url(served):
    async def make():
        async with SqliteStore(served / "runs.db") as store:
            await store.list_runs()

    trio.run(make)
    return f"sqlite:///{served}/runs.db"


def look(served, run_id):
    async def ask():
        async with SqliteStore(served / "runs.db") as store:
            return await store.look(run_id)

    return trio.run(ask)


def test_a_run_is_submitted_signalled_and_cancelled(served, url, capsys):
    assert main(["runs", "submit", "asks", "--store", url, "--state", '{"n": 1}', "--run-id", "r"]) == 0
    assert capsys.readouterr().out == "r\n"
    assert main(["runs", "signal", "r", "go", "--payload", '{"a": [1]}', "--store", url]) == 0
    assert "sent 'go' to 'r'" in capsys.readouterr().out
    assert main(["runs", "list", "--store", url]) == 0
    assert "queued" in capsys.readouterr().out
    assert look(served, "r").status == "queued"
    assert main(["runs", "cancel", "r", "--store", url]) == 0
    assert look(served, "r").status == "cancelled"


def test_a_typed_state_is_made_of_json(served, url, capsys):
    state = '{"to": "Ada"}'
    assert main(["runs", "submit", "served_graphs:letters", "--store", url, "--state", state, "--run-id", "r"]) == 0

    async def ask():
        async with SqliteStore(served / "runs.db") as store:
            return (await store.load("r")).state

    import msgspec

    assert msgspec.msgpack.decode(trio.run(ask)) == {"to": "Ada", "count": 1}
    assert main(["runs", "submit", "served_graphs:letters", "--store", url, "--state", "{}"]) == 2
    assert "state must be a Letter as JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["runs", "submit", "asks", "--state", "{"], 2, "state must be JSON"),
        (["runs", "submit", "asks", "--state", "[1]"], 2, "state must be a JSON object"),
        (["runs", "submit", "asks", "--delay", "-1"], 2, "delay must be"),
        (["runs", "submit", "served_graphs:gone"], 1, "has no 'gone'"),
        (["runs", "signal", "gone", "go"], 1, "there is no run 'gone'"),
        (["runs", "signal", "gone", "go", "--payload", "{"], 2, "payload must be JSON"),
        (["runs", "cancel", "gone"], 1, "no run 'gone' was submitted"),
        (["serve", "served_graphs:other"], 2, "must be a StateGraph, or several in a list"),
        (["serve", "served_graphs:graphs", "--limit", "asks"], 2, "limit must be a graph's name and a number"),
        (["serve", "served_graphs:graphs", "--lease", "1", "--poll", "1"], 2, "lease must be at least three times poll"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(url, capsys, arguments, status, message):
    assert main([*arguments, "--store", url]) == status
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


@pytest.mark.parametrize("command", [["submit", "asks"], ["signal", "r", "go"], ["cancel", "r"]])
def test_a_store_that_is_not_there_is_not_made(served, capsys, command):
    assert main(["runs", *command, "--store", "sqlite:///nowhere.db"]) == 1
    assert "store must be the URL of an existing store" in capsys.readouterr().err
    assert not (served / "nowhere.db").exists()


def test_prune_leaves_waiting_runs_alone(served, url, capsys):
    assert main(["runs", "submit", "asks", "--store", url, "--run-id", "r"]) == 0
    time.sleep(0.01)
    assert main(["runs", "prune", "--store", url, "--older-than", "0s"]) == 0
    assert look(served, "r").status == "queued"
    assert main(["runs", "prune", "--store", url, "--older-than", "0s", "--status", "queued"]) == 0
    assert "deleted 'r'" in capsys.readouterr().out


def test_prune_leaves_alone_who_waits_for_a_person_in_a_service(served, url, capsys):
    graph = StateGraph(GraphConfig(name="pauses", observer="noop"))

    @graph.node
    async def ask(state):
        pause("go on?")

    graph.set_entry_point("ask")
    graph.set_exit_point("ask")
    config = ServiceConfig(observer="noop", poll=0.05)

    async def serve():
        async with SqliteStore(served / "runs.db") as store, open_service(store, [graph], config=config) as service:
            await service.submit("pauses", State(), run_id="r")
            with trio.fail_after(20):
                while (await store.list_runs())[0].status != "paused":  # noqa: ASYNC110 - the store has no event
                    await trio.sleep(0.01)

    trio.run(serve)
    time.sleep(0.01)
    assert main(["runs", "prune", "--store", url, "--older-than", "0s"]) == 0
    assert look(served, "r").status == "paused"
    assert main(["runs", "prune", "--store", url, "--older-than", "0s", "--status", "paused"]) == 0
    assert "deleted 'r'" in capsys.readouterr().out


def start(served, *options):
    command = [sys.executable, "-W", "error", "-m", "trioflow", "serve", "served_graphs:graphs", "--store", "sqlite:///runs.db", "--poll", "0.05", *options]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(os.environ.get("PYTHONPATH", "")), str(served)]))}
    process = subprocess.Popen(command, cwd=served, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline().startswith("serving asks, slows, letters from sqlite:///runs.db"), process.stderr.read()
    return process


def end(process):
    output, errors = process.communicate(timeout=30)
    assert errors == ""
    return output


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is POSIX's")
def test_a_process_serves_until_sigterm_and_lets_the_step_in_hand_end(served):
    # The store is made by who serves first.
    process = start(served, "--limit", "asks=1")

    async def use():
        async with SqliteStore(served / "runs.db") as store:
            client = service_client(store)
            await client.submit("asks", State(n=1), run_id="r")
            await client.signal("r", "go", 5)
            assert (await client.result("r")).state == State(n=1, got=5)
            await client.submit("slows", State(seconds=0.7), run_id="slow")

    trio.run(use)
    while process.stdout.readline() != "slow\n":
        pass
    process.send_signal(signal.SIGTERM)
    assert "waiting for running steps" in end(process)
    assert process.returncode == 0
    assert look(served, "slow").status == "completed"


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM is POSIX's")
def test_a_second_sigterm_does_not_wait(served):
    process = start(served)

    async def use():
        async with SqliteStore(served / "runs.db") as store:
            await service_client(store).submit("slows", State(seconds=100), run_id="slow")

    trio.run(use)
    while process.stdout.readline() != "slow\n":
        pass
    process.send_signal(signal.SIGTERM)
    while "waiting for running steps" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == 0
    assert look(served, "slow").status == "queued"


def test_an_id_is_used_once(url, capsys):
    assert main(["runs", "submit", "asks", "--store", url, "--run-id", "r"]) == 0
    assert main(["runs", "submit", "asks", "--store", url, "--run-id", "r"]) == 1
    assert "'r' already exists" in capsys.readouterr().err

"""The command line: what it prints of a store, and what it says when it cannot."""

import builtins
import json
import subprocess
import sys

import pytest

pytest.importorskip("cyclopts", reason="the command line needs the extra cli")

import trio

from trioflow import (
    CheckpointConfig,
    GraphConfig,
    ParallelConfig,
    State,
    StateGraph,
    pause,
    process_parallel,
)
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.cli import main


@pytest.fixture
def url(tmp_path):
    async def fill():
        async with SqliteStore(tmp_path / "runs.db") as store:
            graph = StateGraph(GraphConfig(name="letter", observer="noop"), store=store)

            @graph.node
            async def ask(state):
                pause({"question": "send?"})

            graph.set_entry_point("ask")
            graph.set_exit_point("ask")
            await graph.execute(State(to="Ada\n"), run_id="letter-1")

            async def work(item):
                return item

            config = ParallelConfig(observer="noop", checkpoint=CheckpointConfig(preserve=True))
            await process_parallel(range(3), work, config=config, store=store, run_id="fan-1")

    trio.run(fill)
    return f"sqlite:///{tmp_path}/runs.db"


def test_list_shows_the_runs(url, capsys):
    assert main(["runs", "list", "--store", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "id", "graph", "status", "step", "items", "updated", "at"]
    assert lines[1].split()[:3] == ["letter-1", "letter", "paused"]
    assert lines[2].split()[:4] == ["fan-1", "a", "fan-out", "completed"]
    assert main(["runs", "list", "--store", url, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(run["run_id"], run["items"]) for run in runs] == [("letter-1", 0), ("fan-1", 3)]


def test_show_shows_the_state(url, capsys):
    assert main(["runs", "show", "letter-1", "--store", url]) == 0
    shown = capsys.readouterr().out
    assert "next_node:   ask" in shown
    assert r"{'to': 'Ada\n'}" in shown
    assert "{'question': 'send?'}" in shown
    assert main(["runs", "show", "letter-1", "--store", url, "--json", "--step", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == {"to": "Ada\n"}


def test_show_shows_a_fan_out(url, capsys):
    assert main(["runs", "show", "fan-1", "--store", url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["graph"], shown["status"], shown["items"]) == ("a fan-out", "completed", 3)


def test_show_shows_a_run_that_was_killed(tmp_path, capsys):
    async def fill():
        async with SqliteStore(tmp_path / "runs.db") as store:
            await store.save_items("fan-2", await store.claim("fan-2"), [("a", b"")])

    trio.run(fill)
    url = f"sqlite:///{tmp_path}/runs.db"
    assert main(["runs", "show", "fan-2", "--store", url]) == 0
    assert "status:      running" in capsys.readouterr().out
    assert main(["runs", "history", "fan-2", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "show", "fan-2", "--store", url, "--step", "1"]) == 1


def test_history_shows_the_steps(url, capsys):
    assert main(["runs", "history", "letter-1", "--store", url]) == 0
    assert "paused" in capsys.readouterr().out
    assert main(["runs", "history", "letter-1", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["step"] == 0
    assert main(["runs", "history", "fan-1", "--store", url, "--json"]) == 0
    assert [step["status"] for step in json.loads(capsys.readouterr().out)] == ["completed"]


def test_delete_deletes_one_run(url, capsys):
    assert main(["runs", "delete", "fan-1", "--store", url]) == 0
    assert capsys.readouterr().out == "deleted 'fan-1'\n"
    assert main(["runs", "delete", "fan-1", "--store", url]) == 1


def test_prune_deletes_old_runs(url, capsys):
    assert main(["runs", "prune", "--older-than", "1h", "--store", url]) == 0
    assert capsys.readouterr().out == ""
    assert main(["runs", "prune", "--older-than", "0s", "--store", url, "--dry-run"]) == 0
    assert capsys.readouterr().out == "would delete 'letter-1'\nwould delete 'fan-1'\n"
    assert main(["runs", "prune", "--older-than", "0s", "--status", "paused", "--store", url]) == 0
    assert capsys.readouterr().out == "deleted 'letter-1'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nope"], "there is no run 'nope' in this store"),
        (["history", "nope"], "there is no run 'nope' in this store"),
        (["delete", "nope"], "there is no run 'nope' in this store"),
        (["prune", "--older-than", "soon"], "older_than must be a number and a unit"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(url, capsys, arguments, message):
    assert main(["runs", *arguments, "--store", url]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("store", ["memory", "sqlite:///nowhere.db", "ftp://x/y"])
def test_a_store_that_is_not_there_is_refused_and_not_made(capsys, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "list", "--store", store]) == 1
    assert "store must be" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_makes_no_sense_has_another_status(url, capsys):
    assert main(["runs", "bogus", "--store", url]) == 2
    capsys.readouterr()


def test_it_runs_as_a_module(url):
    command = [sys.executable, "-W", "error", "-m", "trioflow", "runs", "list", "--store", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "letter-1" in done.stdout


def test_without_the_extra_it_names_it(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "cyclopts":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="needs the extra `cli`"):
        main(["runs", "list"])

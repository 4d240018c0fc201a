"""The command line: what it prints of a store, and what it says when it cannot."""

import builtins
import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("cyclopts", reason="the command line needs the extra cli")

import apsw
import msgspec
import trio

from trioflow import (
    Checkpoint,
    CheckpointConfig,
    CheckpointStoreError,
    GraphConfig,
    ParallelConfig,
    RetryConfig,
    Routes,
    State,
    StateGraph,
    TraceObserver,
    pause,
    process_chain,
    process_conditional,
    process_parallel,
)
from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.cli import main, program


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


def test_show_says_when_the_run_began_and_when_a_step_was_saved(url, capsys):
    def shown(*command):
        assert main(["runs", *command, "--store", url, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    began = next(run["created_at"] for run in shown("list") if run["run_id"] == "fan-1")
    first, last = [step["created_at"] for step in shown("history", "fan-1")]
    assert began <= first < last
    assert shown("show", "fan-1")["created_at"] == began
    assert shown("show", "fan-1", "--step", "0")["created_at"] == first


def test_show_shows_a_fan_out(url, capsys):
    assert main(["runs", "show", "fan-1", "--store", url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["graph"], shown["status"], shown["items"]) == ("a fan-out", "completed", 3)


@pytest.fixture
def partly(tmp_path):
    """The URL of a store with fan-outs of which some items have failed."""

    async def work(item):
        if item % 3 == 0:
            raise ValueError("first\nof all") if item == 0 else OSError("no route")
        return item

    async def crowd(item):
        raise ValueError(f"{item}")

    async def fill(store):
        config = ParallelConfig(observer="noop", fail_fast=False, raise_if_all_failed=False, max_workers=1)
        await process_parallel(range(9), work, config=config, store=store, run_id="partly")
        await process_parallel(range(9), work, config=config, store=store, run_id="named", key=lambda item: f"k{item}\n")
        await process_parallel(range(130), crowd, config=config, store=store, run_id="crowd")

    return make(tmp_path / "runs.db", fill)


def test_show_shows_what_failed_in_a_fan_out(partly, capsys):
    assert main(["runs", "show", "partly", "--store", partly]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "failed:      3 items, 0 unfinished",
        "error:       2 items, the first is 3: OSError: no route",
        r"error:       1 item, the first is 0: ValueError: first\nof all",
    ]
    (state,) = [line for line in lines if line.startswith("state:")]
    assert "route" not in state
    assert main(["runs", "show", "named", "--store", partly]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:-1] == ["failed:      3 items", r"error:       2 items, the first is 'k3\n': OSError: no route"]
    assert main(["runs", "show", "crowd", "--store", partly]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("error:")]) == 101
    assert lines[-1] == "error:       30 items with other messages"


def test_show_prints_what_failed_as_json(partly, url, capsys):
    assert main(["runs", "show", "partly", "--store", partly, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["failures"] == {
        "failed": 3,
        "other": 0,
        "unfinished": 0,
        "categories": [
            {"message": "no route", "type": "OSError", "count": 2, "first_index": 3, "first_key": None},
            {"message": "first\nof all", "type": "ValueError", "count": 1, "first_index": 0, "first_key": None},
        ],
    }
    assert shown["state"][:2] == [9, False]
    assert len(shown["state"]) == 3
    assert main(["runs", "show", "partly", "--store", partly, "--json", "--step", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] is None, "none had failed yet"
    assert main(["runs", "show", "fan-1", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] is None


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
    assert [step["status"] for step in json.loads(capsys.readouterr().out)] == ["running", "completed"]


def test_a_long_name_is_whole_where_no_terminal_is(tmp_path, capsys):
    name = "n" * 150

    async def use(store):
        await store.save(checkpoint(name), await store.claim(name))

    assert main(["runs", "list", "--store", make(tmp_path / "runs.db", use)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


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
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(url, capsys, arguments, message):
    assert main(["runs", *arguments, "--store", url]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--older-than", "soon"], "older_than must be a number and a unit"),
        (["prune", "--older-than", "1d", "--status", "completd"], "status must be one of running, completed"),
        (["prune"], "older-than"),
        (["show"], "requires an argument"),
    ],
)
def test_what_makes_no_sense_is_refused_with_two(url, capsys, arguments, message):
    assert main(["runs", *arguments, "--store", url]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("trioflow: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(("store", "status"), [("memory", 2), ("sqlite:///nowhere.db", 1), ("ftp://x/y", 2)])
@pytest.mark.parametrize("command", [["list"], ["vacuum"], ["delete", "x"]])
def test_a_store_that_is_not_there_is_refused_and_not_made(capsys, store, status, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *command, "--store", store]) == status
    assert "store must be" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["runs", "bogus"], ["nope\n\x1b[31m"], ["trace", "summary", "a", "--nope"], ["runs", "list"]])
def test_a_command_that_makes_no_sense_has_another_status_and_one_line(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("trioflow: ")
    assert captured.err[:-1].isprintable()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash is installed")
def test_a_shell_completes_it(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = "COMP_WORDS=(trioflow whatif --rec); COMP_CWORD=2; _trioflow; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["--recommend"]


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_there_is_completion_for_other_shells(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "whatif" in capsys.readouterr().out


def test_it_runs_as_a_module(url):
    command = [sys.executable, "-P", "-W", "error", "-m", "trioflow", "runs", "list", "--store", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "letter-1" in done.stdout


@pytest.fixture
def without_extra(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "cyclopts":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_without_the_extra_it_names_it(without_extra, capsys):
    with pytest.raises(ImportError, match="needs the extra `cli`"):
        main(["runs", "list"])
    assert program() == 1
    assert capsys.readouterr().err == "trioflow: the command line needs the extra `cli`: pip install 'trioflow[cli]'\n"


def test_without_the_driver_of_a_store_it_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "trioflow.checkpoint.postgres", raising=False)
    assert main(["runs", "list", "--store", "postgresql://host/runs"]) == 1
    assert capsys.readouterr().err == (
        "trioflow: the PostgreSQL store needs the extra 'postgres': pip install 'trioflow[postgres]'\n"
    )


# Each run by itself.


def checkpoint(run_id, **changes):
    fields = {
        "graph": "g", "step": 1, "node": "a", "next_node": "b", "iterations": 1, "state": b"\x80", "status": "running", "pause": None,
        "created_at": 1.5,
    }  # fmt: skip
    return sealed(Checkpoint(run_id=run_id, **{**fields, **changes}))


def make(path, use):
    async def fill():
        async with SqliteStore(path) as store:
            await use(store)

    trio.run(fill)
    return f"sqlite:///{path}"


@pytest.fixture
def family(tmp_path):
    async def use(store):
        parents = {}
        for run_id, parent in (("alone", None), ("top", None), ("fan", "top"), ("other", None), ("inner", "fan"), ("chain", "top")):
            holder = None if parent is None else (parent, parents[parent])
            parents[run_id] = await store.claim(run_id, parent=holder)
            await store.save(checkpoint(run_id), parents[run_id])

    return make(tmp_path / "runs.db", use)


def test_list_shows_runs_inside_runs_below_them(family, capsys):
    assert main(["runs", "list", "--store", family]) == 0
    lines = [line[:14].rstrip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line.split("  g")[0].rstrip(" g") for line in lines] == ["alone", "top", "  └ fan", "    └ inner", "  └ chain", "other"]
    assert main(["runs", "list", "--store", family, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert {run["run_id"]: run["parent"] for run in runs}["inner"] == "fan"
    assert {run["kind"] for run in runs} == {"graph"}


def test_show_shows_the_runs_inside(family, capsys):
    assert main(["runs", "show", "top", "--store", family]) == 0
    out = capsys.readouterr().out
    assert "child:       fan (running)\nchild:         └ inner (running)\nchild:       chain (running)\n" in out
    assert main(["runs", "show", "top", "--store", family, "--json"]) == 0
    assert [child["run_id"] for child in json.loads(capsys.readouterr().out)["children"]] == ["fan", "inner", "chain"]
    assert main(["runs", "show", "inner", "--store", family]) == 0
    assert "parent:      fan" in capsys.readouterr().out


def test_delete_takes_the_runs_inside_along(family, capsys):
    assert main(["runs", "delete", "top", "--store", family]) == 0
    assert capsys.readouterr().out == "deleted 'top'\ndeleted 'fan'\ndeleted 'inner'\ndeleted 'chain'\n"
    assert main(["runs", "list", "--store", family, "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)] == ["alone", "other"]


def test_prune_leaves_runs_inside_runs_to_those(family, capsys):
    assert main(["runs", "prune", "--older-than", "0s", "--store", family, "--dry-run"]) == 0
    assert capsys.readouterr().out == "would delete 'alone'\nwould delete 'top'\nwould delete 'other'\n"


@pytest.mark.parametrize(
    "spoil",
    ["UPDATE runs SET epoch = 99", "UPDATE checkpoints SET node = 'z'", "UPDATE runs SET created_at = 1e300, updated_at = 'x'"],
)
def test_one_damaged_run_is_shown_as_such_and_blocks_no_other(family, capsys, spoil):
    db = apsw.Connection(family.removeprefix("sqlite:///"))
    number = db.execute("SELECT number FROM runs WHERE run_id = 'alone'").get
    db.execute(f"{spoil} WHERE {'run' if 'checkpoints' in spoil else 'number'} = {number}")
    db.close()
    assert main(["runs", "list", "--store", family]) == 0
    assert "corrupt" in capsys.readouterr().out.splitlines()[1]
    assert main(["runs", "list", "--store", family, "--json"]) == 0
    assert [run["status"] for run in json.loads(capsys.readouterr().out)] == ["corrupt"] + ["running"] * 5
    assert main(["runs", "show", "alone", "--store", family, "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "corrupt"
    assert "is damaged" in captured.err
    assert main(["runs", "history", "alone", "--store", family]) == 1
    assert "is damaged" in capsys.readouterr().err
    for command in (["show", "other"], ["history", "other"]):
        assert main(["runs", *command, "--store", family]) == 0
    assert main(["runs", "prune", "--older-than", "0s", "--status", "corrupt", "--store", family]) == 0
    capsys.readouterr()
    assert main(["runs", "list", "--store", family]) == 0
    assert "alone" not in capsys.readouterr().out


def test_json_is_json_whatever_a_state_holds(tmp_path, capsys):
    state = msgspec.msgpack.encode(
        {"inf": float("inf"), b"key": [float("-inf"), b"text", b"\xff"], 1: None, (1, b"a"): True, "model": msgspec.msgpack.Ext(1, b'{"x": 1}')}
    )

    async def use(store):
        await store.save(checkpoint("r", state=state, pause=b"\xc1", status="paused"), await store.claim("r"))

    url = make(tmp_path / "runs.db", use)

    def strict(text):
        raise AssertionError(f"{text} is no JSON")

    assert main(["runs", "show", "r", "--store", url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out, parse_constant=strict)
    assert shown["state"] == {"inf": "inf", "key": ["-inf", "text", "/w=="], "1": None, "[1, 'a']": True, "model": {"x": 1}}
    assert main(["runs", "show", "r", "--store", url]) == 0
    assert "b'key'" in capsys.readouterr().out


# Looking changes nothing.


def test_an_empty_file_is_listed_and_stays_empty(tmp_path, capsys):
    (tmp_path / "runs.db").touch()
    assert main(["runs", "list", "--store", f"sqlite:///{tmp_path}/runs.db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "show", "x", "--store", f"sqlite:///{tmp_path}/runs.db"]) == 1
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("runs.db", 0)]


@pytest.mark.parametrize("open_meanwhile", [False, True])
def test_looking_leaves_everything_as_it_is(family, tmp_path, capsys, open_meanwhile):
    db = None
    if open_meanwhile:
        db = apsw.Connection(str(tmp_path / "runs.db"))
        db.execute("UPDATE runs SET updated_at = updated_at")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir() if "shm" not in file.name}
    for command in (["list"], ["show", "top"], ["history", "top"], ["prune", "--older-than", "0s", "--dry-run"]):
        assert main(["runs", *command, "--store", family]) == 0
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir() if "shm" not in file.name}
    assert after == before
    if db is not None:
        db.close()


@pytest.mark.parametrize("index", [True, False])
def test_what_a_killed_process_left_is_read_and_left(tmp_path, capsys, index):
    async def use():
        store = SqliteStore(tmp_path / "live.db")
        await store.save(checkpoint("r"), await store.claim("r"))
        for name in ("live.db", "live.db-wal", "live.db-shm")[: 3 if index else 2]:
            (folder / name).write_bytes((tmp_path / name).read_bytes())
        await store.aclose()

    folder = tmp_path / "left"
    folder.mkdir()
    trio.run(use)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if "shm" not in file.name}
    assert main(["runs", "list", "--store", f"sqlite:///{folder}/live.db", "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)] == ["r"]
    assert {file.name: file.read_bytes() for file in folder.iterdir() if "shm" not in file.name} == before
    assert (folder / "live.db-shm").exists() == index


@pytest.mark.skipif(sys.platform != "linux", reason="mounting needs Linux")
def test_a_store_on_a_read_only_mount_is_listed(family, tmp_path, capsys):
    mount = tmp_path / "mounted"
    mount.mkdir()
    command = f"mount --bind {tmp_path} {mount} && mount -o remount,bind,ro {mount}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        assert main(["runs", "list", "--store", f"sqlite:///{mount}/runs.db"]) == 0
        assert "alone" in capsys.readouterr().out
        assert main(["runs", "delete", "alone", "--store", f"sqlite:///{mount}/runs.db"]) == 1
        assert "cannot be opened" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_what_is_not_to_be_written_is_not(family):
    async def write():
        async with SqliteStore(family.removeprefix("sqlite:///"), read_only=True) as store:
            for call in (store.claim("x"), store.delete("alone"), store.vacuum(), store.save_items("alone", 1, [])):
                with pytest.raises(CheckpointStoreError, match="was opened to be read only"):
                    await call
            assert len(await store.list_runs()) == 6

    trio.run(write)


def test_vacuum_gives_space_back(tmp_path, capsys):
    async def use(store):
        await store.save(checkpoint("r", state=b"x" * 3_000_000), await store.claim("r"))
        await store.delete("r")

    url = make(tmp_path / "runs.db", use)
    before = (tmp_path / "runs.db").stat().st_size
    assert main(["runs", "vacuum", "--store", url]) == 0
    assert (tmp_path / "runs.db").stat().st_size < before / 10


# Graphs in modules of the user's.


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder to be in, with modules that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    names = set(sys.modules)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "good.py").write_text(
        "from trioflow import GraphConfig, StateGraph\n"
        "print('importing')\n"
        "graph = StateGraph(GraphConfig(name='letter'))\n"
        "async def ask(state): return state\n"
        "graph.add_node('ask', ask)\n"
        "graph.set_entry_point('ask')\n"
        "graph.set_exit_point('ask')\n"
        "class Flows: letter = graph\n"
        "number = 3\n"
    )
    (tmp_path / "flows" / "bad.py").write_text(
        "from trioflow import GraphConfig, StateGraph\n"
        "graph = StateGraph(GraphConfig(name='broken'))\n"
        "async def ask(state): return state\n"
        "graph.add_node('ask', ask)\n"
        "graph.add_edge('ask', 'nowhere')\n"
    )
    (tmp_path / "flows" / "raising.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "flows" / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "flows" / "needing.py").write_text("import no_such_package_of_ours\n")
    (tmp_path / "flows" / "spelled.py").write_text("def (\n")
    yield tmp_path
    for name in set(sys.modules) - names:
        if name.startswith("flows"):
            del sys.modules[name]


def test_a_graph_is_drawn(modules, capsys):
    path = list(sys.path)
    for target in ("flows.good:graph", "flows.good:Flows.letter"):
        assert main(["graph", "mermaid", target]) == 0
        assert capsys.readouterr().out.startswith("flowchart TD\n")
    assert main(["graph", "mermaid", "flows.bad:graph"]) == 0
    assert "nowhere" in capsys.readouterr().out
    assert sys.path == path


def test_a_graph_without_faults_is_valid(modules, capsys):
    assert main(["graph", "validate", "flows.good:graph"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "the graph 'letter' has no faults\n"
    assert "importing" in captured.err
    assert main(["graph", "validate", "flows.good:graph", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"graph": "letter", "faults": []}


def test_every_fault_of_a_graph_is_printed(modules, capsys):
    assert main(["graph", "validate", "flows.bad:graph"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the graph 'broken' has 3 faults:"
    assert len(lines) == 4
    assert any("no entry point" in line for line in lines)
    assert main(["graph", "validate", "flows.bad:graph", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 3


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("flows.good", 2, "graph must be"),
        (":graph", 2, "graph must be"),
        ("flows.good:", 2, "graph must be"),
        ("../flows/good:graph", 2, "graph must be"),
        ("flows.good:number", 2, "'flows.good:number' must be a StateGraph, got 3"),
        ("flows.god:graph", 1, "there is no module 'flows.god'"),
        ("nowhere_at_all:graph", 1, "there is no module 'nowhere_at_all'"),
        ("flows.good:grpah", 1, "has no 'grpah' (did you mean 'graph'?"),
        ("flows.raising:graph", 1, "importing 'flows.raising' failed: RuntimeError: two\\nlines"),
        ("flows.leaving:graph", 1, "importing 'flows.leaving' failed: SystemExit: 0"),
        ("flows.needing:graph", 1, "importing 'flows.needing' failed: ModuleNotFoundError: No module named"),
        ("flows.spelled:graph", 1, "importing 'flows.spelled' failed: SyntaxError:"),
    ],
)
@pytest.mark.parametrize("command", ["mermaid", "validate"])
def test_a_graph_that_is_not_there_is_said_in_a_line(modules, capsys, command, target, status, message):
    assert main(["graph", command, target]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.removeprefix("importing\n").splitlines()) == 1
    assert captured.out == ""


# Traces.


@pytest.fixture
def trace(tmp_path):
    async def work(item):
        await trio.sleep((item + 1) / 1000)
        if item == 3:
            raise ValueError("bad\n<b>")
        return item

    async def step(state):
        return state

    async def add(item, state):
        return item + state

    async def fill():
        retry = RetryConfig(max_attempts=2, initial_delay=0.001)
        config = ParallelConfig(fail_fast=False, max_workers=2, retry=retry)
        graph = StateGraph(GraphConfig(name="letter"))
        graph.add_node("attempt 1", step)
        graph.set_entry_point("attempt 1")
        graph.set_exit_point("attempt 1")
        with TraceObserver(tmp_path / "run.json") as observer:
            await process_parallel(range(6), work, config=config, observer=observer, run_id="fan")
            await process_chain([1, 2], 0, add, observer=observer, run_id="chain")
            await graph.execute(State(), observer=observer, run_id="letter-1")
            await process_conditional("Ada", lambda _: "greet", Routes({"greet": step}), observer=observer)

    trio.run(fill)
    return tmp_path / "run.json"


def summary(path, capsys, status=0):
    assert main(["trace", "summary", str(path), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_trace_is_summed_up(trace, capsys):
    found = summary(trace, capsys)
    assert found["whole"] is True
    fan, chain, letter, routing = found["runs"]
    assert (fan["name"], fan["status"], fan["calls"], fan["failed"], fan["retries"]) == ("parallel fan", "ok", 6, 1, 1)
    lanes = fan["groups"]
    assert [lane["name"] for lane in lanes] == ["worker 0", "worker 1"]
    assert sum(lane["calls"] for lane in lanes) == 6
    assert all(0 < lane["p50"] <= lane["p95"] <= lane["p99"] == lane["longest"] < 5 for lane in lanes)
    assert all(0 < lane["busy"] <= 1 for lane in lanes)
    assert fan["duration"] >= max(lane["longest"] for lane in lanes)
    assert [group["name"] for group in chain["groups"]] == ["step 0", "step 1"]
    assert [(group["name"], group["calls"]) for group in letter["groups"]] == [("attempt 1", 1)]
    assert routing["name"] == "conditional"
    assert len(found["slowest"]) == 10
    assert found["slowest"][0]["duration"] >= found["slowest"][1]["duration"]
    (failure,) = found["failures"]
    assert (failure["error_type"], failure["count"], failure["run"]) == ("ValueError", 1, "parallel fan")
    assert (failure["name"], failure["error_message"]) == ("item 3", "bad\\n<b>")


def test_a_trace_is_summed_up_for_people(trace, capsys):
    assert main(["trace", "summary", str(trace)]) == 0
    out = capsys.readouterr().out
    assert "parallel fan" in out
    assert "worker 1" in out
    assert "ValueError" in out
    assert "█" in out


def test_a_trace_cut_off_anywhere_is_summed_up(trace, tmp_path, capsys):
    data = trace.read_bytes()
    cut = tmp_path / "cut.json"
    first = data.index(b'"ph":"B"') + 200
    for end in (first, len(data) // 2, len(data) // 2 + 1, len(data) - 2, len(data) - 3, len(data) - 4):
        cut.write_bytes(data[:end])
        found = summary(cut, capsys)
        assert found["whole"] is False, end
    cut.write_bytes(data[:first])
    assert summary(cut, capsys)["runs"][0]["status"] == "unfinished"
    assert main(["trace", "summary", str(cut)]) == 0
    assert "unfinished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "line 1"),
        (b'{"a": 1}\n', "line 1"),
        (b'[\n{"ph":"X","pid":1,"tid":0},\n,,\n]\n', "line 3"),
        (b'[\n{"ph":"X","pid":"one","tid":0},\n{}\n]\n', "line 2"),
        (b'[\n{"ph":"X","pid":1,"tid":0,"ts":1e999,"dur":1},\n{}\n]\n', "line 2"),
        (b'[\n{"ph":"M","pid":1,"tid":0},\n\xff\xfe\n]\n', "line 3"),
        (b"[\n" + b" " * 2_000_000 + b"\n]\n", "line 2"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_damaged_trace_is_said_in_a_line(tmp_path, capsys, content, message, flags):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["trace", "summary", str(path), *flags]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_folder_is_no_trace(tmp_path, capsys):
    assert main(["trace", "summary", str(tmp_path)]) == 1
    assert "directory" in capsys.readouterr().err
    assert main(["trace", "summary"]) == 2
    capsys.readouterr()


def test_what_reads_no_further_is_no_error(trace):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-W", "error", "-m", "trioflow", "trace", "summary", str(trace), "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")

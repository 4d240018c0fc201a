"""The house stays tidy: the layout comment names every room, each guarantee its tests, live objects how they stand."""

import re
import tomllib
from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

import trioflow
from trioflow.workflows._pool import Worker

ROOT = Path(trioflow.__file__).parent
CLONE = Path(__file__).parents[1]


def test_the_layout_comment_names_every_room():
    layout = (ROOT / "__init__.py").read_text().split('"""')[0]
    rooms = {
        f"{path.name}/" if path.is_dir() else path.stem
        for path in ROOT.iterdir()
        if path.name not in {"__init__.py", "__pycache__"} and path.suffix in {"", ".py"}
    }
    missing = {room for room in rooms if f"   {room} " not in layout}
    assert not missing


def test_the_guarantees_name_tests_that_are_there():
    page = (CLONE / "docs" / "reference" / "guarantees.md").read_text()
    named = re.findall(r"`(tests/[^`]*)`", page)
    assert named
    assert [name for name in named if not (CLONE / name).exists()] == []
    paragraphs = [part for part in re.split(r"(?m)^(?=\*\*)", page) if part.startswith("**")]
    assert [part.splitlines()[0] for part in paragraphs if "`tests/" not in part] == []


def test_contributors_know_how_to_make_tests_longer():
    read = re.compile(r'environ\.get\("(TRIOFLOW_\w+)", "(\d+)"\)')
    page = (CLONE / "CONTRIBUTING.md").read_text()
    for file in (CLONE / "tests").rglob("*.py"):
        for name, default in read.findall(file.read_text()):
            row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), "")
            assert row, f"CONTRIBUTING.md does not name {name}"
            assert default in row.split("|")[3].replace(",", ""), name


def test_the_changelog_begins_with_what_comes_and_then_with_this_version():
    versions = re.findall(r"(?m)^## \[(.+?)\]", (CLONE / "CHANGELOG.md").read_text())
    version = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["version"]
    assert versions[:2] == ["Unreleased", version]


async def test_every_live_object_says_how_it_stands():
    async def source():
        yield 1
        await trio.sleep_forever()

    async def work(item):
        await trio.sleep_forever()

    heard = trioflow.RecordingObserver()
    async with trioflow.open_parallel(source(), work, observer=heard) as run:
        await wait_all_tasks_blocked()
        pool = run._pool
        assert "1 unsettled" in repr(run)
        assert "1 pulled" in repr(pool.feeder.source)
        assert "open" in repr(pool.feeder)
        assert "parallel" in repr(pool._events)
        assert "0" in repr(pool.ledger.watch())
    async with trioflow.open_parallel([1], work, observer=heard) as run:
        await wait_all_tasks_blocked()
        assert "exhausted" in repr(run._pool.feeder.source)
        assert "attempt 0" in repr(Worker(3, run._pool._emitter))

"""What somebody meets who starts wrongly: asyncio instead of Trio, or a package that is not installed."""

import asyncio
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trio

import trioflow
from trioflow import (
    EventStream,
    GraphConfig,
    MemoryStore,
    RateLimiter,
    RetryConfig,
    Routes,
    State,
    StateGraph,
    durable_sleep,
    gather_requests,
    open_hub,
    open_parallel,
    open_service,
    process_chain,
    process_conditional,
    process_parallel,
    service_client,
    wait_for_signal,
    with_concurrency_limit,
    with_rate_limit,
    with_retry,
    with_timeout,
)
from trioflow.checkpoint.sqlite import SqliteStore

ROOT = Path(__file__).parents[1]


async def work(*args):
    return args[-1]


def graph():
    graph = StateGraph(GraphConfig(name="g", observer="noop"))
    graph.add_node("only", work)
    graph.set_entry_point("only")
    graph.set_exit_point("only")
    return graph


async def enter(block):
    async with block:
        pass


async def a_hub():
    async with open_hub() as hub:
        return hub


CALLS = {
    "process_parallel": lambda: process_parallel([1], work),
    "open_parallel": lambda: enter(open_parallel([1], work)),
    "process_chain": lambda: process_chain([1], 0, work),
    "process_conditional": lambda: process_conditional(1, lambda state: "x", Routes({"x": work})),
    "execute": lambda: graph().execute(State()),
    "resume": lambda: graph().resume("r"),
    "open_run": lambda: enter(graph().open_run(State())),
    "open_hub": lambda: enter(open_hub()),
    "open_service": lambda: enter(open_service(MemoryStore(), [graph()])),
    "submit": lambda: service_client(MemoryStore()).submit("a", State()),
    "result": lambda: service_client(MemoryStore()).result("r"),
    "signal": lambda: service_client(MemoryStore()).signal("r", "go"),
    "cancel": lambda: service_client(MemoryStore()).cancel("r"),
    "durable_sleep": lambda: durable_sleep(1),
    "wait_for_signal": lambda: wait_for_signal("go"),
    "acquire": lambda: RateLimiter(1).acquire(),
    "with_rate_limit": lambda: with_rate_limit(work, RateLimiter(1))(1),
    "with_timeout": lambda: with_timeout(work, 1)(1),
    "with_retry": lambda: with_retry(work, RetryConfig())(1),
    "with_concurrency_limit": lambda: with_concurrency_limit(work, trio.CapacityLimiter(1))(1),
    "EventStream": lambda: anext(EventStream()),
    "MemoryStore": lambda: MemoryStore().list_runs(),
    "SqliteStore": lambda: enter(SqliteStore("never.db")),
    "SqliteStore.list_runs": lambda: SqliteStore("never.db").list_runs(),
}

HUB_CALLS = {
    "send": lambda hub: hub.send("a", "b"),
    "request": lambda hub: hub.request("a", "b"),
    "broadcast": lambda hub: hub.broadcast("a"),
    "publish": lambda hub: hub.publish("a", "b"),
    "retire": lambda hub: hub.retire("a"),
    "gather_requests": lambda hub: gather_requests(hub, "a", ["b"]),
}


def assert_says_what_to_do(call):
    async def main():
        await call()

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert str(caught.value) == (
        "trioflow needs Trio: start the program with trio.run(main), not with asyncio.run(main())"
    )


@pytest.mark.parametrize("name", CALLS)
def test_under_asyncio_it_says_to_use_trio_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_says_what_to_do(CALLS[name])


@pytest.mark.parametrize("name", HUB_CALLS)
def test_a_hub_that_is_called_under_asyncio_says_so(name):
    hub = trio.run(a_hub)
    assert_says_what_to_do(lambda: HUB_CALLS[name](hub))


def without(package, *command):
    """Run a script or module where `package` cannot be imported."""
    code = f"import sys, runpy; sys.modules[{package!r}] = None; "
    code += "sys.path.insert(0, 'examples'); " + command[0]
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("example", "package"),
    [
        ("fan_out", "openai"),
        ("fan_out", "h11"),
        ("fan_out", "rich"),
        ("document_review", "openai"),
        ("document_review", "h11"),
        ("resume", "openai"),
        ("briefing", "openai"),
        ("chat_server", "h11"),
    ],
)
def test_an_example_without_its_packages_says_in_one_line_what_to_install(example, package):
    done = without(package, f"runpy.run_path('examples/{example}.py', run_name='__main__')")
    assert done.returncode == 1
    assert re.fullmatch(rf"this example needs {package}: pip install [^\n]*{package}[^\n]*\n", done.stderr), done.stderr


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_the_command_line_without_its_extra_says_in_one_line_what_to_install(package):
    done = without(package, "runpy.run_module('trioflow', run_name='__main__')")
    assert done.returncode == 1
    assert done.stderr == "trioflow: the command line needs the extra `cli`: pip install 'trioflow[cli]'\n"


def test_an_extra_exists_only_while_library_code_imports_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    imported = {"PyYAML": "yaml", "opentelemetry-api": "opentelemetry"}
    source = "\n".join(path.read_text() for path in Path(trioflow.__file__).parent.rglob("*.py"))
    documented = (ROOT / "docs/design/dependencies.md").read_text()
    for extra, requirements in extras.items():
        assert f"| `{extra}` |" in documented
        for requirement in requirements:
            name = re.match(r"[\w-]+", requirement)[0]
            module = imported.get(name, name)
            assert re.search(rf"^\s*(?:import|from) {module}\b|import_module\(\"{module}\"\)|msgspec\.{module}\.", source, re.MULTILINE), f"{extra}: {name}"

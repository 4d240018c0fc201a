"""What tests share: a loguru sink to read back, a `Cancelled` that is over, and a guard on how tests end."""

import functools
import importlib.util
import inspect
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from loguru import logger

# Where SIGINT was ignored, as under nohup and in some CI, Python leaves it so, and children inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Log(list[tuple[str, str]]):
    """The lines that were logged: (level, message)."""

    def at(self, level: str) -> list[str]:
        return [message for logged, message in self if logged == level]


@pytest.fixture
def log() -> Iterator[Log]:
    lines = Log()
    sink = logger.add(
        lambda message: lines.append((message.record["level"].name, message.record["message"])),
        level="TRACE",
        format="{message}",
    )
    yield lines
    logger.remove(sink)


@pytest.fixture
async def stale() -> trio.Cancelled:
    """A `Cancelled` of a scope that is over."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError("the scope was not cancelled")


@pytest.fixture(scope="session")
def postgres_servers() -> ModuleType:
    """The module that starts servers of PostgreSQL; skips, and says why, where there can be none."""
    spec = importlib.util.spec_from_file_location("postgres_server", Path(__file__).with_name("postgres_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if (why := module.why_not()) is not None:
        pytest.skip(why)
    return module


@pytest.fixture(scope="session")
def postgres_server(postgres_servers: ModuleType) -> Iterator[Any]:
    """A running server of PostgreSQL, for all tests of this process; whoever stops it starts it again."""
    server = postgres_servers.Server()
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no test end by a `Cancelled` that got out of it: pytest-trio would call that a success."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _ending_by_itself(item.obj)


def _ending_by_itself(test):
    @functools.wraps(test)
    async def wrapper(**fixtures):
        try:
            await test(**fixtures)
        except trio.Cancelled as cancelled:
            raise AssertionError("a Cancelled got out of the test") from cancelled

    return wrapper

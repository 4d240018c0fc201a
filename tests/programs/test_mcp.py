"""Calls of MCP tools, over stdio and over HTTP: a round of calls as an agent makes it, fanned out and kept."""

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from trioflow import CheckpointConfig, ParallelConfig, ParallelResult, process_parallel

pytest.importorskip("mcp.server.mcpserver", reason="a program with the mcp package, 2 or later: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult
from servers import open_server
from tool_server import make_tools

SCRIPT = Path(__file__).parent / "tool_server.py"


class ToolCall(msgspec.Struct, frozen=True):
    """What a model asked for."""

    id: str
    name: str
    arguments: dict[str, str]


class ToolFailed(Exception):
    """A tool that answered with an error."""


async def call_tools(client: Client, calls: list[ToolCall], store: str) -> ParallelResult[ToolCall, CallToolResult]:
    async def call_tool(call: ToolCall) -> CallToolResult:
        result = await client.call_tool(call.name, call.arguments)
        if result.is_error:
            raise ToolFailed(result.content[0].text)
        return result

    # one call that fails must not cost the agent its turn, even where it is the only one
    config = ParallelConfig(
        fail_fast=False,
        raise_if_all_failed=False,
        task_timeout=10,
        checkpoint=CheckpointConfig(store=store, preserve=True),
        observer="noop",
    )
    return await process_parallel(
        calls, call_tool, config=config, run_id="turn-1", key=lambda call: call.id, result_type=CallToolResult
    )


CALLS = [
    ToolCall("1", "age_of", {"name": "Ada"}),
    ToolCall("2", "shout", {"text": "hello"}),
    ToolCall("3", "age_of", {"name": "nemo"}),
    ToolCall("4", "no_such_tool", {}),
]


@asynccontextmanager
async def over_stdio():
    async with Client(StdioServerParameters(command=sys.executable, args=[str(SCRIPT)])) as client:
        yield client


@asynccontextmanager
async def over_http():
    async with open_server(make_tools().streamable_http_app()) as url, Client(f"{url}/mcp") as client:
        yield client


@pytest.mark.parametrize("transport", [over_stdio, over_http])
async def test_results_of_tools_are_kept_and_recalled_equal(transport, tmp_path):
    store = f"sqlite:///{tmp_path}/runs.db"
    with trio.fail_after(30):
        async with transport() as client:
            first = await call_tools(client, CALLS, store)
            again = await call_tools(client, CALLS[:2], store)
            failing = await call_tools(client, CALLS[2:3], store)

    assert [result.content[0].text for result in first.results] == ['{\n  "Ada": 36\n}', "HELLO"]
    assert first.results[0].structured_content == {"Ada": 36}
    assert [failed.item.id for failed in first.errors] == ["3", "4"]
    assert "nobody is called nemo" in str(first.errors[0].error)
    assert "no_such_tool" in str(first.errors[1].error)
    assert again.results == first.results
    assert {type(result) for result in again.results} == {CallToolResult}
    assert len(failing.errors) == 1


async def test_recalled_results_need_no_server(tmp_path):
    store = f"sqlite:///{tmp_path}/runs.db"
    with trio.fail_after(30):
        async with Client(make_tools()) as client:
            first = await call_tools(client, CALLS[:2], store)
        # the client is closed: a call would fail
        again = await call_tools(client, CALLS[:2], store)
    assert again.results == first.results

"""The recipe of MCP: a turn's calls of tools over stdio and over HTTP, fanned out, and kept where that is wanted."""

import sys
from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import CheckpointConfig

pytest.importorskip("mcp.server.mcpserver", reason="the recipe needs the mcp package, 2 or later: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

import mcp_tools
import tool_server
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult
from mcp_tools import ToolCall, call_tools
from servers import open_server
from tool_server import make_tools

CALLS = [
    ToolCall("1", "age_of", {"name": "Ada"}),
    ToolCall("2", "shout", {"text": "hello"}),
    ToolCall("3", "age_of", {"name": "nemo"}),
    ToolCall("4", "no_such_tool", {}),
]


@asynccontextmanager
async def over_stdio():
    async with Client(StdioServerParameters(command=sys.executable, args=[tool_server.__file__])) as client:
        yield client


@asynccontextmanager
async def over_http():
    async with open_server(make_tools().streamable_http_app()) as url, Client(f"{url}/mcp") as client:
        yield client


@pytest.mark.parametrize("transport", [over_stdio, over_http])
async def test_results_of_tools_are_kept_and_recalled_equal(transport, store):
    kept = CheckpointConfig(store=store, preserve=True)
    with trio.fail_after(30):
        async with transport() as client:
            first = await call_tools(client, CALLS, kept=kept)
            again = await call_tools(client, CALLS[:2], kept=kept)
            failing = await call_tools(client, CALLS[2:3], kept=kept)

    assert [result.content[0].text for result in first.results] == ['{\n  "Ada": 36\n}', "HELLO"]
    assert first.results[0].structured_content == {"Ada": 36}
    assert [failed.item.id for failed in first.errors] == ["3", "4"]
    assert "nobody is called nemo" in str(first.errors[0].error)
    assert "no_such_tool" in str(first.errors[1].error)
    assert again.results == first.results
    assert {type(result) for result in again.results} == {CallToolResult}
    assert len(failing.errors) == 1


async def test_recalled_results_need_no_server(store):
    kept = CheckpointConfig(store=store, preserve=True)
    with trio.fail_after(30):
        async with Client(make_tools()) as client:
            first = await call_tools(client, CALLS[:2], kept=kept)
        # the client is closed: a call would fail
        again = await call_tools(client, CALLS[:2], kept=kept)
    assert again.results == first.results


async def test_the_program_shows_both_transports(capsys):
    with trio.fail_after(30):
        await mcp_tools.main()
    lines = capsys.readouterr().out.splitlines()
    failures = ["  call 3 failed: Error executing tool age_of: nobody is called nemo", "  call 4 failed: Unknown tool: no_such_tool"]
    assert lines == ['stdio: {  "Ada": 36} HELLO', *failures, 'HTTP: {  "Ada": 36} HELLO', *failures]

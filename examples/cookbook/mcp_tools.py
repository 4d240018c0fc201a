"""Calls of MCP tools fanned out, over stdio and over HTTP: what one agent's turn asks of its tools.

Run it: `pip install mcp starlette "hypercorn[trio]"`, `python examples/cookbook/mcp_tools.py`
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import trio
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent
from servers import open_server
from tool_server import make_tools

from trioflow import CheckpointConfig, ParallelConfig, ParallelResult, process_parallel

SERVER = Path(__file__).with_name("tool_server.py")


class ToolCall(msgspec.Struct, frozen=True):
    """What a model asked for."""

    id: str
    name: str
    arguments: dict[str, str]


class ToolError(Exception):
    """A tool that answered with an error."""


async def call_tools(
    client: Client, calls: list[ToolCall], *, kept: CheckpointConfig | None = None, turn: str = "turn-1"
) -> ParallelResult[ToolCall, CallToolResult]:
    async def call_tool(call: ToolCall) -> CallToolResult:
        result = await client.call_tool(call.name, call.arguments)
        if result.is_error:  # a tool that fails answers, too
            raise ToolError(text(result))
        return result

    # one call that fails must not cost the agent its turn, even where it is the only one
    config = ParallelConfig(
        fail_fast=False, raise_if_all_failed=False, task_timeout=10, checkpoint=kept, observer="noop"
    )
    return await process_parallel(
        calls, call_tool, config=config, run_id=turn, key=lambda call: call.id, result_type=CallToolResult
    )


def text(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, TextContent))


async def main() -> None:
    calls = [ToolCall("1", "age_of", {"name": "Ada"}), ToolCall("2", "shout", {"text": "hello"})]
    calls += [ToolCall("3", "age_of", {"name": "nemo"}), ToolCall("4", "no_such_tool", {})]
    async with AsyncExitStack() as stack:
        stdio = StdioServerParameters(command=sys.executable, args=[str(SERVER)])
        url = await stack.enter_async_context(open_server(make_tools().streamable_http_app()))
        for transport, server in (("stdio", stdio), ("HTTP", f"{url}/mcp")):
            async with Client(server) as client:
                result = await call_tools(client, calls)
            print(f"{transport}:", *(text(answer).replace("\n", "") for answer in result.results))
            for failed in result.errors:
                print(f"  call {failed.item and failed.item.id} failed: {failed.error}")


if __name__ == "__main__":
    trio.run(main)

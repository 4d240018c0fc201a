"""One call of each SDK, for `asyncio_survey.py`, and a server of loopback that understands what they ask."""
# ruff: noqa: PLC0415 - what is not installed is not tried

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from servers import open_server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MESSAGES: Any = [{"role": "user", "content": "hello"}]
ANSWER = {"role": "assistant", "content": "hi"}
OPENAI = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip
ANTHROPIC = {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
GENAI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "hi"}]}}]}
OLLAMA = {"message": ANSWER, "done": True}
ENDS = {"messages": ANTHROPIC, "generateContent": GENAI, "chat": OLLAMA}


@asynccontextmanager
async def open_everything() -> AsyncIterator[tuple[str, int]]:
    """Serve HTTP and Redis, and yield the URL of the one and the port of the other."""

    async def answer(request: Request) -> JSONResponse:
        path = request.url.path
        return JSONResponse(next((body for end, body in ENDS.items() if path.endswith(end)), OPENAI))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with open_server(app) as url, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, speak_redis, listeners)  # noqa: ASYNC113 - they listen already
        yield url, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def speak_redis(stream: trio.SocketStream) -> None:
    async for received in stream:
        for _ in range(received.count(b"*")):
            await stream.send_all(b"+PONG\r\n" if b"PING" in received else b"+OK\r\n")


async def httpx2(url: str, _: int) -> object:
    import httpx2

    async with httpx2.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).status_code


async def httpx(url: str, _: int) -> object:
    import httpx  # noqa: ASYNC127 - it is what is tried

    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(url)).status_code


async def openai(url: str, _: int) -> object:
    import openai

    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", http_client=http) as client:
        return (await client.chat.completions.create(model="m", messages=MESSAGES)).id


async def anthropic(url: str, _: int) -> object:
    import anthropic

    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", http_client=http) as client:
        return (await client.messages.create(model="m", max_tokens=9, messages=MESSAGES)).id


async def mcp(_url: str, _: int) -> object:
    from mcp import Client
    from tool_server import make_tools

    async with Client(make_tools()) as client:
        return (await client.call_tool("shout", {"text": "hi"})).content


async def groq(url: str, _: int) -> object:
    import groq

    http = groq.DefaultAsyncHttpxClient(trust_env=False)
    async with groq.AsyncGroq(base_url=url, api_key="k", http_client=http) as client:
        return (await client.chat.completions.create(model="m", messages=MESSAGES)).id


async def ollama(url: str, _: int) -> object:
    import ollama

    return (await ollama.AsyncClient(host=url, trust_env=False).chat(model="m", messages=MESSAGES)).message


async def mistralai(url: str, _: int) -> object:
    import httpx  # noqa: ASYNC127 - it is what is tried
    from mistralai.client import Mistral

    http: Any = httpx.AsyncClient(trust_env=False)
    async with http, Mistral(api_key="k", server_url=url, async_client=http) as client:
        return (await client.chat.complete_async(model="m", messages=MESSAGES)).id


async def google_genai(url: str, _: int) -> object:
    from google import genai

    async with genai.Client(api_key="k", http_options={"base_url": url}).aio as client:
        return (await client.models.generate_content(model="m", contents="hello")).text


async def google_genai_with_httpx(url: str, _: int) -> object:
    import httpx  # noqa: ASYNC127 - it is what is tried
    from google import genai

    async with httpx.AsyncClient(trust_env=False) as http:
        options: Any = {"base_url": url, "httpx_async_client": http}
        async with genai.Client(api_key="k", http_options=options).aio as client:
            return (await client.models.generate_content(model="m", contents="hello")).text


async def aiohttp(url: str, _: int) -> object:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


async def redis(_url: str, port: int) -> object:
    from redis.asyncio import Redis

    async with Redis(port=port, protocol=2) as client:
        return await client.ping()


async def websockets(_url: str, _: int) -> object:
    import websockets

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
            await client.send("hello")
            return await client.recv()


async def aiosqlite(_url: str, _: int) -> object:
    import aiosqlite

    async with aiosqlite.connect(":memory:") as db, db.execute("SELECT 1") as cursor:
        return await cursor.fetchone()


async def asyncpg(_url: str, _: int) -> object:
    import asyncpg

    async with asyncpg.create_pool(os.environ["POSTGRES_URL"], min_size=1) as pool:
        return await pool.fetchval("SELECT 1")


async def psycopg(_url: str, _: int) -> object:
    import psycopg

    async with await psycopg.AsyncConnection.connect(os.environ["POSTGRES_URL"]) as connection:
        return await (await connection.execute("SELECT 1")).fetchone()


SDKS = [
    httpx2, httpx, openai, anthropic, mcp, groq, ollama, google_genai_with_httpx, google_genai, mistralai, aiohttp,
    redis, websockets, aiosqlite, asyncpg, psycopg,
]  # fmt: skip

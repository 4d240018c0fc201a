"""What the programs talk to: any ASGI app on a free port of loopback, and a service of two models' APIs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@asynccontextmanager
async def open_server(app) -> AsyncIterator[str]:
    """Serve `app` while the block runs, and yield its URL."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0.5
    config.errorlog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        yield url
        stop.set()


SILENCE = 599
"""A status that comes too late."""


class Models:
    """A service that speaks as those of OpenAI and Anthropic do.

    `faults` are the statuses with which the first attempts at a text are answered; `texts` are all attempts.
    """

    def __init__(self, faults: Mapping[str, Sequence[int]] | None = None) -> None:
        self.texts: list[str] = []
        self._faults = {text: list(statuses) for text, statuses in (faults or {}).items()}
        routes = [("/v1/chat/completions", self._openai), ("/v1/messages", self._anthropic)]
        self.app = Starlette(routes=[Route(path, handler, methods=["POST"]) for path, handler in routes])

    async def _openai(self, request: Request) -> JSONResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        refusal = await self._refusal(text)
        if refusal is not None:
            return refusal
        message = {"role": "assistant", "content": text.upper(), "refusal": None}
        return JSONResponse({
            "id": f"chatcmpl-{len(self.texts)}", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20},
        })  # fmt: skip

    async def _anthropic(self, request: Request) -> JSONResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        refusal = await self._refusal(text)
        if refusal is not None:
            return refusal
        tool = {"type": "tool_use", "id": f"toolu_{len(self.texts)}", "name": "note", "input": {"tags": [text], "score": 0.5}}
        return JSONResponse({
            "id": f"msg_{len(self.texts)}", "type": "message", "role": "assistant", "model": body["model"],
            "content": [{"type": "text", "text": text.upper()}, tool],
            "stop_reason": "tool_use", "stop_sequence": None, "usage": {"input_tokens": 10, "output_tokens": 10},
        })  # fmt: skip

    async def _refusal(self, text: str) -> JSONResponse | None:
        self.texts.append(text)
        statuses = self._faults.get(text)
        if not statuses:
            return None
        status = statuses.pop(0)
        if status == SILENCE:
            await trio.sleep(0.2)
        error = {"type": "error", "message": f"refused with {status}", "code": None}
        return JSONResponse({"type": "error", "error": error}, status, {"retry-after": "0.02"})

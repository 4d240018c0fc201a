"""What the recipes talk to, without a key, a bill or a network: any ASGI app on a free port of loopback."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

try:
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
except ImportError as missing:
    raise SystemExit(f"this recipe needs {missing.name}: pip install starlette 'hypercorn[trio]'") from None

SILENCE = 599
"""A status that comes too late."""


@asynccontextmanager
async def open_server(app: Any) -> AsyncIterator[str]:
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


class Models:
    """A service that speaks as those of OpenAI and Anthropic do: a text comes back in capitals.

    A message that comes with tools gets a call of the first tool for each of its words, then what they gave.
    `faults` are the statuses with which the first attempts at a text are answered; `texts` are all attempts,
    `keys` their idempotency keys, and `times` when they came. Each answer takes `latency` seconds, and a refusal
    says to come again after `retry_after` of them.
    """

    def __init__(
        self,
        faults: Mapping[str, Sequence[int]] | None = None,
        *,
        latency: float = 0.0,
        retry_after: float = 0.02,
    ) -> None:
        self.texts: list[str] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self._faults = {text: list(statuses) for text, statuses in (faults or {}).items()}
        self._latency = latency
        self._headers = {"retry-after": str(retry_after)}
        routes = [("/v1/chat/completions", self._openai), ("/v1/messages", self._anthropic)]
        self.app = Starlette(routes=[Route(path, handler, methods=["POST"]) for path, handler in routes])

    async def _openai(self, request: Request) -> JSONResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        refusal = await self._refusal(text, request)
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
        content = body["messages"][-1]["content"]
        returned = isinstance(content, list)  # what tools returned
        text = "; ".join(part["content"] for part in content) if returned else content
        refusal = await self._refusal(text, request)
        if refusal is not None:
            return refusal
        if "tools" in body and not returned:
            calls = [(body["tools"][0]["name"], {"word": word}) for word in text.split()]
        else:
            calls = [] if returned else [("note", {"tags": [text], "score": 0.5})]
        number = len(self.texts)
        uses = [
            {"type": "tool_use", "id": f"toolu_{number}_{index}", "name": name, "input": given}
            for index, (name, given) in enumerate(calls)
        ]
        return JSONResponse({
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"],
            "content": [{"type": "text", "text": text if returned else text.upper()}, *uses],
            "stop_reason": "tool_use" if uses else "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 10},
        })  # fmt: skip

    async def _refusal(self, text: str, request: Request) -> JSONResponse | None:
        self.texts.append(text)
        self.times.append(trio.current_time())
        self.keys.append(request.headers.get("idempotency-key"))
        await trio.sleep(self._latency)
        statuses = self._faults.get(text)
        if not statuses:
            return None
        status = statuses.pop(0)
        if status == SILENCE:
            await trio.sleep(0.2)
        error = {"type": "error", "message": f"refused with {status}", "code": None}
        return JSONResponse({"type": "error", "error": error}, status, self._headers)


class Site:
    """Pages that link to others; it counts who asks for what, and how many ask at once.

    `broken` are the statuses with which the first attempts at a page are answered, `slow` the seconds it takes.
    """

    def __init__(
        self,
        pages: Mapping[str, Sequence[str]],
        broken: Mapping[str, Sequence[int]] | None = None,
        slow: Mapping[str, float] | None = None,
    ) -> None:
        self.pages = {path: list(links) for path, links in pages.items()}
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.tenth = trio.Event()
        self._at_once = 0
        self._broken = {path: list(statuses) for path, statuses in (broken or {}).items()}
        self._slow = dict(slow or {})
        self.app = Starlette(routes=[Route("/{path:path}", self._page)])

    async def _page(self, request: Request) -> Response:
        path = request.url.path
        self.asked[path] += 1
        if len(self.asked) == 10:
            self.tenth.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep(self._slow.get(path, 0.002))
        finally:
            self._at_once -= 1
        if self._broken.get(path):
            return Response(status_code=self._broken[path].pop(0))
        if path not in self.pages:
            return Response(status_code=404)
        return HTMLResponse("".join(f'<a href="{link}">{link}</a>' for link in self.pages[path]))

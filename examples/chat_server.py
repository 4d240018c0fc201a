"""A small chat-completions server to try things on, without a key, a bill or a network.

It speaks enough of the OpenAI-compatible protocol for any client of it: `POST /v1/chat/completions` is answered
with an extractive summary of the last user message. It also misbehaves as such services do: it is slow, refuses
with 429 and `Retry-After`, fails with 500, and drops connections. What befalls a request depends on the seed, on
its text and on how often that text was asked before, never on the order in which requests arrive; so a run can
be repeated, however concurrent it is.

::

    async with open_chat_server(seed=7) as base_url:
        ...  # point a client at base_url

HTTP is h11's part, sockets and tasks are Trio's. It listens on the loopback interface only.
"""

import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import msgspec
import trio

try:
    import h11
except ImportError as missing:
    raise SystemExit(f"this example needs {missing.name}: pip install h11") from None

__all__ = ("FaultRates", "open_chat_server", "summarise")

CHAT_PATH = b"/v1/chat/completions"
CHUNK_SIZE = 65_536

Fate = Literal["answered", "rate_limited", "server_error", "dropped"]


class FaultRates(msgspec.Struct, frozen=True, kw_only=True):
    """How often the server misbehaves, each from 0 (never) to 1 (always)."""

    rate_limited: float = 0.03
    """Share of attempts refused with 429."""
    server_error: float = 0.05
    """Share of attempts that fail with 500."""
    dropped: float = 0.03
    """Share of attempts whose connection is closed without an answer."""
    persistent: float = 0.02
    """Share of texts that fail with 500 at every attempt."""

    def __post_init__(self) -> None:
        per_attempt = (self.rate_limited, self.server_error, self.dropped)
        if min(*per_attempt, self.persistent) < 0 or max(sum(per_attempt), self.persistent) > 1:
            raise ValueError(f"fault rates must be shares of one whole, got {self}")


@asynccontextmanager
async def open_chat_server(
    *, seed: int = 0, faults: FaultRates | None = None, latency: float = 1.0
) -> AsyncIterator[str]:
    """Serve chat completions while the block runs, and yield the base URL to give to a client.

    Args:
        seed: what the faults and latencies are drawn from.
        faults: how often requests fail; None takes the defaults of `FaultRates`.
        latency: factor on the time an answer takes, which is 50 to 300 ms; 0 answers at once.

    Cancellation: passes through; the connections are closed.
    """
    server = _Server(seed, FaultRates() if faults is None else faults, latency)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve, listeners)
        port: int = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
        nursery.cancel_scope.cancel()


def summarise(text: str) -> str:
    """Return the two sentences of `text` whose words are the most frequent in it, in their order."""
    sentences = _sentences(text)
    frequency = Counter(word for sentence in sentences for word in _words(sentence))

    def score(sentence: str) -> float:
        words = _words(sentence)
        # the square root lets longer sentences win, but not for their length alone
        return sum(frequency[word] for word in set(words)) / math.sqrt(len(words) + 5)

    best = sorted(sentences, key=score, reverse=True)[:2]
    return " ".join(sentence for sentence in sentences if sentence in best) or " ".join(text.split())[:200]


def _sentences(text: str) -> list[str]:
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n|\n\s*[*-] ", text)]
    candidates = [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph)]
    # headings and listings have no full stop; neither says much in a summary
    return list(dict.fromkeys(part for part in candidates if part.endswith((".", "!", "?")) and len(part) < 300))


def _words(sentence: str) -> list[str]:
    # words of three letters or fewer are mostly grammar
    return re.findall(r"[a-z]{4,}", sentence.lower())


class _Message(msgspec.Struct):
    role: str
    content: str | None = None


class _ChatRequest(msgspec.Struct):
    model: str
    messages: list[_Message]
    stream: bool = False


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: dict[str, object]
    headers: tuple[tuple[str, str], ...] = ()


class _Server:
    """What the connections share: the seed, and how often each text was asked."""

    def __init__(self, seed: int, faults: FaultRates, latency: float) -> None:
        self._seed = seed
        self._faults = faults
        self._latency = latency
        self._attempts: Counter[str] = Counter()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection until either side ends it."""
        connection = h11.Connection(h11.SERVER)
        async with stream:
            # a client that goes away, in whatever state, is none of the server's business
            with suppress(trio.BrokenResourceError):
                while await self._exchange(connection, stream):
                    connection.start_next_cycle()

    async def _exchange(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """Answer one request, and return whether the connection can carry another."""
        try:
            received = await _receive(connection, stream)
        except h11.RemoteProtocolError as error:
            # h11 may refuse to go on after half a request that was already bad
            with suppress(h11.LocalProtocolError):
                await _send(connection, stream, _refusal(400, "invalid_request_error", f"bad request: {error}"))
            return False
        if received is None:
            return False
        request, body = received
        answer = await self._answer(request, body)
        if answer is None:
            return False
        await _send(connection, stream, answer, with_body=request.method != b"HEAD")
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, request: h11.Request, body: bytes) -> _Answer | None:
        """Return the answer to a request; None drops the connection."""
        if (request.method, request.target.partition(b"?")[0]) != (b"POST", CHAT_PATH):
            url = f"{request.method.decode()} {request.target.decode()}"
            return _refusal(404, "invalid_request_error", f"unknown request URL: {url}")
        try:
            chat = msgspec.json.decode(body, type=_ChatRequest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _refusal(400, "invalid_request_error", f"the body cannot be read: {error}")
        if chat.stream:
            return _refusal(400, "invalid_request_error", "streaming is not supported")
        asked = [message.content for message in chat.messages if message.role == "user" and message.content]
        if not asked:
            return _refusal(400, "invalid_request_error", "there is no message of a user")
        return await self._complete(chat, asked[-1])

    async def _complete(self, chat: _ChatRequest, text: str) -> _Answer | None:
        self._attempts[text] += 1
        draw = random.Random(f"{self._seed}:{self._attempts[text]}:{text}")
        await trio.sleep(self._latency * min(max(draw.lognormvariate(math.log(0.12), 0.5), 0.05), 0.3))
        match self._fate(draw, text):
            case "rate_limited":
                wait = draw.uniform(0.2, 0.5)
                headers = (("retry-after", f"{wait:.3f}"), ("retry-after-ms", f"{1000 * wait:.0f}"))
                return _refusal(429, "rate_limit_error", "rate limit reached, slow down", headers)
            case "server_error":
                return _refusal(500, "server_error", "the model failed to answer")
            case "dropped":
                return None
            case "answered":
                return _completion(chat, summarise(text), f"chatcmpl-{draw.getrandbits(96):024x}")

    def _fate(self, draw: random.Random, text: str) -> Fate:
        faults = self._faults
        if random.Random(f"{self._seed}:{text}").random() < faults.persistent:
            return "server_error"
        shares: dict[Fate, float] = {
            "rate_limited": faults.rate_limited,
            "server_error": faults.server_error,
            "dropped": faults.dropped,
        }
        shares["answered"] = max(0.0, 1 - sum(shares.values()))
        return draw.choices(list(shares), list(shares.values()))[0]


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes] | None:
    """Return the next request and its body; None where the client has ended the connection."""
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(CHUNK_SIZE))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(body)
        else:
            return None


async def _send(
    connection: h11.Connection, stream: trio.SocketStream, answer: _Answer, *, with_body: bool = True
) -> None:
    body = msgspec.json.encode(answer.body)
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), *answer.headers]
    events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers)]
    if with_body:
        events.append(h11.Data(data=body))
    events.append(h11.EndOfMessage())
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))


def _completion(chat: _ChatRequest, summary: str, id: str) -> _Answer:
    prompt_tokens = sum(_token_count(message.content or "") for message in chat.messages)
    completion_tokens = _token_count(summary)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": summary, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    body: dict[str, object] = {
        "id": id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": chat.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return _Answer(200, body)


def _token_count(text: str) -> int:
    # the usual rule of thumb for English: four characters a token
    return math.ceil(len(text) / 4)


def _refusal(status: int, type: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> _Answer:
    return _Answer(status, {"error": {"message": message, "type": type, "param": None, "code": None}}, headers)

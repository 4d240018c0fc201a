"""The local chat-completions server: what it answers, refuses and breaks, and that it can be repeated."""

import math
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

openai = pytest.importorskip(
    "openai", "1.63", "the server is tested through the openai client, which needs asyncio before 1.63: demo group"
)
h11 = pytest.importorskip("h11", reason="the server is built on h11: demo group")

from chat_server import FaultRates, open_chat_server, summarise  # noqa: E402 - needs h11

TEXT = """Cats sleep

Cats sleep most of the day, and cats hunt at night. It rains.

Dogs bark. Because cats hunt at night, cats see well in the night.
"""
NEVER = FaultRates(rate_limited=0, server_error=0, dropped=0, persistent=0)


def open_client(base_url: str):
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key="test",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )


async def ask(client, text: str = TEXT):
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
    return await client.chat.completions.create(model="any-model", messages=messages)


async def exchange(base_url: str, request: bytes) -> tuple[int, bytes]:
    """Send raw bytes on a connection of their own; return the status and body of the answer."""
    port = int(base_url.removesuffix("/v1").rpartition(":")[2])
    connection, body = h11.Connection(h11.CLIENT), b""
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "test")]))
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                status = event.status_code
            else:
                body += event.data
    return status, body


def posting(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def test_a_summary_is_the_two_densest_sentences_in_their_order():
    assert summarise(TEXT) == (
        "Cats sleep most of the day, and cats hunt at night. "
        "Because cats hunt at night, cats see well in the night."
    )


@pytest.mark.parametrize(("text", "summary"), [("", ""), ("no full  stop", "no full stop"), ("One.", "One.")])
def test_a_text_without_sentences_is_its_own_summary(text, summary):
    assert summarise(text) == summary


async def test_a_completion_has_the_summary_and_adds_its_tokens_up():
    async with open_chat_server(faults=NEVER, latency=0) as base_url, open_client(base_url) as client:
        completion = await ask(client)

    (choice,) = completion.choices
    assert (completion.object, completion.model) == ("chat.completion", "any-model")
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == summarise(TEXT)
    usage = completion.usage
    assert usage.prompt_tokens == math.ceil(len(TEXT) / 4) + math.ceil(len("be brief") / 4)
    assert usage.completion_tokens == math.ceil(len(summarise(TEXT)) / 4)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_a_connection_carries_many_requests():
    async with open_chat_server(faults=NEVER, latency=0) as base_url:
        two = posting(b"{}", "/first") + posting(b"{}", "/second")
        port = int(base_url.removesuffix("/v1").rpartition(":")[2])
        received = b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(two)
            while b"/second" not in received:
                received += await stream.receive_some()

    assert received.count(b"HTTP/1.1 404") == 2


@pytest.mark.parametrize("call", ["completions", "models"])
async def test_an_unknown_path_is_404_with_a_json_error(call):
    async with open_chat_server(faults=NEVER, latency=0) as base_url, open_client(base_url) as client:
        unknown: dict[str, Callable[[], Awaitable[object]]] = {
            "completions": partial(client.completions.create, model="any", prompt="x"),
            "models": client.models.list,
        }
        with pytest.raises(openai.NotFoundError, match="unknown request URL"):
            await unknown[call]()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", b"cannot be read"),
        (b"[]", b"cannot be read"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}', b"cannot be read"),
        (b'{"x":' + b"[" * 100_000, b"cannot be read"),
        (b'{"model": "m", "messages": []}', b"no message of a user"),
        (b'{"model": "m", "messages": [], "stream": true}', b"not supported"),
    ],
)
async def test_a_bad_body_is_400_with_a_json_error(body, says):
    async with open_chat_server(faults=NEVER, latency=0) as base_url:
        status, answer = await exchange(base_url, posting(body))

    assert status == 400
    assert says in answer
    assert answer.startswith(b'{"error":')


async def test_what_is_not_http_is_400_and_others_are_still_served():
    async with open_chat_server(faults=NEVER, latency=0) as base_url, open_client(base_url) as client:
        status, _ = await exchange(base_url, b"\x16\x03\x01 not http\r\n\r\n")
        completion = await ask(client)

    assert status == 400
    assert completion.choices


async def test_a_client_that_goes_away_leaves_the_others_served():
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hello."}]}'
    async with open_chat_server(faults=NEVER, latency=0.01) as base_url, open_client(base_url) as client:
        port = int(base_url.removesuffix("/v1").rpartition(":")[2])
        for request in (posting(body), posting(body)[:-1], b""):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(request)
        completion = await ask(client)

    assert completion.choices


async def test_a_persistent_failure_fails_at_every_attempt():
    faults = FaultRates(rate_limited=0, server_error=0, dropped=0, persistent=1)
    async with open_chat_server(faults=faults, latency=0) as base_url, open_client(base_url) as client:
        for _ in range(5):
            with pytest.raises(openai.InternalServerError, match="failed to answer"):
                await ask(client)


async def test_a_dropped_connection_is_a_connection_error():
    faults = FaultRates(rate_limited=0, server_error=0, dropped=1, persistent=0)
    async with open_chat_server(faults=faults, latency=0) as base_url, open_client(base_url) as client:
        with pytest.raises(openai.APIConnectionError):
            await ask(client)


async def test_a_rate_limit_says_when_to_come_back():
    faults = FaultRates(rate_limited=1, server_error=0, dropped=0, persistent=0)
    async with open_chat_server(faults=faults, latency=0) as base_url, open_client(base_url) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)

    headers = caught.value.response.headers
    assert 0.2 <= float(headers["retry-after"]) <= 0.5
    assert float(headers["retry-after-ms"]) == pytest.approx(1000 * float(headers["retry-after"]), abs=1)


async def test_fates_depend_on_seed_text_and_attempt_and_not_on_order():
    texts = [f"Text number {number} is short." for number in range(12)]

    async def fates(order: list[str], seed: int) -> dict[str, list[str]]:
        seen: dict[str, list[str]] = {text: [] for text in texts}
        faults = FaultRates(rate_limited=0.2, server_error=0.2, dropped=0.2, persistent=0.1)
        async with (
            open_chat_server(seed=seed, faults=faults, latency=0) as base_url,
            open_client(base_url) as client,
        ):
            for text in order:
                try:
                    await ask(client, text)
                    seen[text].append("answered")
                except openai.APIError as error:
                    seen[text].append(type(error).__name__)
        return seen

    forwards = await fates(texts * 3, seed=7)
    by_text = await fates([text for text in reversed(texts) for _ in range(3)], seed=7)
    elsewhere = await fates(texts * 3, seed=8)

    assert forwards == by_text
    assert forwards != elsewhere
    assert {fate for seen in forwards.values() for fate in seen} == {
        "answered",
        "RateLimitError",
        "InternalServerError",
        "APIConnectionError",
    }


@pytest.mark.parametrize("rates", [{"persistent": 1.1}, {"dropped": -0.1}, {"dropped": 0.5, "server_error": 0.6}])
def test_rates_that_are_no_shares_are_refused(rates):
    with pytest.raises(ValueError, match="shares of one whole"):
        FaultRates(**rates)

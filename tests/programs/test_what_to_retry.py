"""What to retry, with the errors that httpx, openai and anthropic really raise: the table in the how-to on retries.

A status is worth another attempt where the SDKs' own retries, which are to be turned off, would make one.
"""

from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import ParallelConfig, RetryConfig, process_parallel, with_retry

httpx = pytest.importorskip("httpx", reason="its errors are what is looked at: tests group")
openai = pytest.importorskip("openai", reason="its errors are what is looked at: tests group")
anthropic = pytest.importorskip("anthropic", reason="its errors are what is looked at: tests group")
pytest.importorskip("starlette", reason="the server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="the server runs on hypercorn[trio]: tests group")

from servers import SILENCE, Models, open_server  # noqa: E402 - may be missing

WORTH = (httpx.TransportError, openai.APIConnectionError, anthropic.APIConnectionError)
NOT_WORTH = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


def worth_another_attempt(error: Exception) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:  # no answer came
        return isinstance(error, WORTH) and not isinstance(error, NOT_WORTH)
    if getattr(error, "code", None) == "insufficient_quota":
        return False
    return status in {408, 409, 429} or status >= 500


@asynccontextmanager
async def by_httpx(url: str, *, retries: int = 0, patience: float = 5):
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=patience) as client:

        async def ask(text: str) -> None:
            response = await client.post("/v1/messages", json={"model": "m", "messages": [{"content": text}]})
            response.raise_for_status()

        yield ask


@asynccontextmanager
async def by_openai(url: str, *, retries: int = 0, patience: float = 5):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=retries, timeout=patience) as client:

        async def ask(text: str) -> None:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        yield ask


@asynccontextmanager
async def by_anthropic(url: str, *, retries: int = 0, patience: float = 5):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=retries, timeout=patience) as client:

        async def ask(text: str) -> None:
            await client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": text}])

        yield ask


CLIENTS = [by_httpx, by_openai, by_anthropic]
RETRIED = [408, 409, 429, 500, 502, 503, 504, 529]
NOT_RETRIED = [400, 401, 403, 404, 405, 413, 422]


@pytest.mark.parametrize("opened", CLIENTS)
async def test_statuses(opened):
    statuses = [*RETRIED, *NOT_RETRIED]
    models = Models({str(status): [status] * 2 for status in statuses})
    config = ParallelConfig(fail_fast=False, max_workers=4, raise_if_all_failed=False, observer="noop")
    with trio.fail_after(20):
        async with open_server(models.app) as url, opened(url) as ask:
            patient = with_retry(ask, RetryConfig(max_attempts=2, initial_delay=0.001), on=worth_another_attempt)
            result = await process_parallel(map(str, statuses), patient, config=config)

    attempts = {int(failed.item): failed.attempts for failed in result.errors}
    assert attempts == dict.fromkeys(RETRIED, 2) | dict.fromkeys(NOT_RETRIED, 1)
    assert sorted(models.texts) == sorted([str(status) for status in statuses] + [str(status) for status in RETRIED])
    assert all(failed.error.response.headers["retry-after"] == "0.02" for failed in result.errors)


@pytest.mark.parametrize("opened", [by_openai, by_anthropic])
async def test_the_sdks_own_retries_agree_and_multiply(opened):
    statuses = [*RETRIED, *NOT_RETRIED]
    models = Models({str(status): [status] * 2 for status in statuses})
    config = ParallelConfig(fail_fast=False, max_workers=4, raise_if_all_failed=False, observer="noop")
    with trio.fail_after(20):
        async with open_server(models.app) as url, opened(url, retries=1) as ask:
            result = await process_parallel(map(str, statuses), ask, config=config)

    asked_twice = {int(text) for text in models.texts if models.texts.count(text) == 2}
    assert asked_twice == set(RETRIED)
    # what the client repeats by itself is not counted
    assert {failed.attempts for failed in result.errors} == {1}


@pytest.mark.parametrize("opened", CLIENTS)
async def test_what_brings_no_answer_is_retried(opened):
    models = Models({"silence": [SILENCE] * 9})
    with trio.fail_after(20):
        async with open_server(models.app) as url, opened(url, patience=0.02) as ask:
            with pytest.raises(WORTH) as late:
                await ask("silence")
        async with opened(url) as ask:
            with pytest.raises(WORTH) as refused:
                await ask("nobody listens there any more")

    assert "Timeout" in type(late.value).__name__
    assert worth_another_attempt(late.value)
    assert worth_another_attempt(refused.value)


@pytest.mark.parametrize(
    ("url", "error"),
    [("gopher://127.0.0.1/", httpx.UnsupportedProtocol), ("http://127.0.0.1:port/", httpx.InvalidURL)],
)
async def test_a_wrong_url_is_not_retried(url, error):
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(error) as wrong:
            await client.get(url)
    assert not worth_another_attempt(wrong.value)


def test_a_header_that_cannot_be_sent_and_an_empty_purse_are_not_retried():
    assert not worth_another_attempt(httpx.LocalProtocolError("Illegal header value"))
    assert not worth_another_attempt(httpx.TooManyRedirects("Exceeded maximum allowed redirects."))
    response = type("Response", (), {"status_code": 429, "headers": {}, "request": None})()
    broke = openai.RateLimitError("no money", response=response, body={"code": "insufficient_quota"})
    busy = openai.RateLimitError("slow down", response=response, body={"code": "rate_limit_exceeded"})
    assert (worth_another_attempt(broke), worth_another_attempt(busy)) == (False, True)

"""Words that a node emits, as a web client gets them: one by one, and no more once it has gone."""

import re
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

h11 = pytest.importorskip("h11", reason="the example's server is built on h11: demo group")

pytestmark = pytest.mark.timeout(60)

IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


def command(examples, *options):
    return [sys.executable, "-W", "error", str(examples / "stream_tokens.py"), *options]


def run_example(examples, *options):
    return subprocess.run(command(examples, *options), capture_output=True, text=True, timeout=50, check=False)


async def start_serving(nursery, examples, *before):
    """Start the example as a server, and return its process and port once it waits."""
    run = partial(
        trio.run_process,
        [*before, *command(examples, "--serve")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    process = await nursery.start(run)
    output = b""
    while not output.endswith(b"/with\n"):
        part = await process.stdout.receive_some()
        assert part, await process.stderr.receive_some()
        output += part
    return process, int(re.fullmatch(rb"curl -N http://127\.0\.0\.1:(\d+)/with\n", output)[1])


async def stop(process):
    """Interrupt the server, and return what it wrote to its standard error."""
    process.send_signal(signal.SIGINT)
    return b"".join([part async for part in process.stderr]).decode()


async def ask(port, target, method="GET"):
    """Open a connection, and ask for `target` on it."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(f"{method} {target} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
    return stream


async def receive_until(stream, what):
    received = b""
    while what not in received:
        part = await stream.receive_some()
        assert part, received
        received += part
    return received


def test_the_client_prints_the_answer_and_the_path(examples):
    done = run_example(examples, "--topic", "pass")

    assert (done.returncode, done.stderr) == (0, "")
    assert '"pass" is a null operation' in done.stdout
    assert done.stdout.endswith("\n\nevent: done, {'path': ['choose', 'answer'], 'dropped': 0}\n")


async def test_each_word_is_an_event_of_its_own_and_comes_before_the_run_has_ended(examples):
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            process, port = await start_serving(nursery, examples)
            async with await ask(port, "/with") as stream:
                begin = await receive_until(stream, b"\n\n")
                # the run goes on: it has not been asked for its last word
                assert b"event: done" not in begin
                end = await receive_until(stream, b"event: done")
            errors = await stop(process)

    assert errors == "stream tokens: interrupted\n"
    head, _, body = (begin + end).partition(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head.lower()
    events = re.findall(rb'event: token\ndata: \{"text":"(.*?) "\}\n\n', body)
    assert len(events) > 10
    assert begin.count(b"event: token") < len(events)


async def test_a_client_that_goes_away_ends_its_run_and_nothing_else(examples):
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            process, port = await start_serving(nursery, examples)
            async with await ask(port, "/with") as stream:
                await receive_until(stream, b"event: token")
            errors = await process.stderr.receive_some()
            async with await ask(port, "/with") as stream:
                await receive_until(stream, b"event: done")
            errors += (await stop(process)).encode()

    gone, interrupted = errors.decode().splitlines()
    assert gone.startswith("stream tokens: a request ended early: ")
    assert interrupted == "stream tokens: interrupted"


@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [("GET", "/nothing", b"404"), ("GET", "/with HTTP/9\r\n", b""), ("HEAD", "/with", b"event-stream")],
    ids=["no topic", "no request", "no body wanted"],
)
async def test_what_asks_for_nonsense_hurts_nobody(examples, method, target, answer):
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            process, port = await start_serving(nursery, examples)
            async with await ask(port, target, method) as stream:
                assert answer in await stream.receive_some()
            async with await ask(port, "/pass") as stream:
                await receive_until(stream, b"event: done")
            errors = await stop(process)

    assert errors.endswith("stream tokens: interrupted\n")
    assert "Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("before", [[], IGNORING_SIGINT], ids=["", "ignored before"])
async def test_ctrl_c_ends_it_without_a_traceback(examples, before):
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            process, port = await start_serving(nursery, examples, *before)
            async with await ask(port, "/with") as stream:
                await receive_until(stream, b"event: token")
                errors = await stop(process)

    assert (process.returncode, errors) == (130, "stream tokens: interrupted\n")


def test_a_topic_that_is_none_is_refused_and_help_says_what_may_be_given(examples):
    refused, helped = run_example(examples, "--topic", "nothing"), run_example(examples, "--help")

    assert (refused.returncode, helped.returncode) == (2, 0)
    assert "--topic" in refused.stderr
    assert "--serve" in helped.stdout

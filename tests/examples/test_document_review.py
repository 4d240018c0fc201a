"""The review loop, run as its reader runs it: the path, the picture, and what a failure says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

for package, version in (("openai", "1.63"), ("h11", None), ("rich", None)):
    pytest.importorskip(package, version, "the example needs openai (1.63, for Trio), h11 and rich: demo group")

from chat_server import FaultRates, open_chat_server  # noqa: E402 - needs h11
from document_review import Review, build_graph, split, words  # noqa: E402 - needs openai

from trioflow import ExecutionError  # noqa: E402 - beside the others


def command(examples: Path, *options: object) -> list[str]:
    return [sys.executable, "-W", "error", str(examples / "document_review.py"), *map(str, options)]


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**own, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1", **variables}


async def run_example(examples: Path, *options: object, **variables: str) -> tuple[int, str]:
    done = await trio.run_process(
        command(examples, *options),
        env=environment(**variables),
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def path_in(output: str) -> list[str]:
    found = re.search(r"^path: (.*)$", output, re.MULTILINE)
    assert found, output
    return found[1].split(" > ")


async def test_it_shows_the_picture_and_goes_from_draft_to_publish(examples):
    status, output = await run_example(examples)
    assert status == 0, output
    assert output.startswith("flowchart TD\n")
    assert '-->|"must_be_revised"|' in output
    path = path_in(output)
    assert (path[0], path[-1]) == ("draft", "publish")
    assert path.count("revise") == 1
    assert "it says: " in output


async def test_the_same_seed_takes_the_same_path_and_none_revises_more_than_twice(examples):
    outputs = {}

    async def keep(key, *options):
        outputs[key] = await run_example(examples, *options)

    async with trio.open_nursery() as nursery:
        for topic, seed in (("exceptions", 1), ("raise", 3)):
            for turn in range(2):
                nursery.start_soon(keep, (topic, turn), "--topic", topic, "--seed", seed)
    for topic in ("exceptions", "raise"):
        status, output = outputs[topic, 0]
        assert status == 0, output
        assert outputs[topic, 0] == outputs[topic, 1]
        assert path_in(output).count("revise") <= 2
    assert path_in(outputs["exceptions", 0][1]).count("revise") == 2


async def test_a_service_that_always_fails_ends_with_the_node_and_no_traceback(examples):
    faults = FaultRates(server_error=1.0, rate_limited=0.0, dropped=0.0)
    async with open_chat_server(faults=faults, latency=0) as base_url:
        status, output = await run_example(examples, OPENAI_BASE_URL=base_url, OPENAI_API_KEY="local")
    assert status == 1
    assert output.splitlines()[-1].startswith("execution failed at node draft: ")
    assert "Traceback" not in output


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
async def test_ctrl_c_ends_it_without_a_traceback(examples):
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                command(examples),
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                task_status=task_status,
            )
        )
        output = b""
        while b"flowchart" not in output:
            output += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        async for chunk in process.stdout:
            output += chunk
    assert process.returncode == 130
    assert b"Traceback" not in output


async def test_reviewers_that_fail_have_no_verdict_and_the_others_decide():
    calls = []

    async def ask(instruction, text):
        calls.append(text)
        if "TWO" in text and "ONE" not in text:
            raise OSError("reviewer down")
        return "Words words words."

    graph = build_graph(ask)
    text = "Words words ONE. " + " " * 40 + "Words words TWO. " + " " * 40 + "Words words END."
    result = await graph.execute(Review(text))
    assert [verdict.part for verdict in result.state.verdicts] == ["beginning", "end"]
    assert result.state.revisions == 0

    async def down(instruction, text):
        if len(calls) > 8:
            raise OSError("all down")
        calls.append(text)
        return "Draft."

    calls[:] = [""] * 8
    with pytest.raises(ExecutionError, match="node review: parallel execution failed: 3 items failed"):
        await build_graph(down).execute(Review(text))


def test_text_is_split_into_sentences_and_words():
    assert split("One. Two! Three?") == ["One.", "Two!", "Three?"]
    assert words("The Graph walks.") == {"graph", "walks"}

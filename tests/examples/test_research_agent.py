"""The agent that researches in a loop, run as its reader runs it: killed once, resumed, nothing paid twice."""

import os
import re
import signal
import subprocess
import sys

import pytest
import trio

for package, version in (("openai", "1.63"), ("h11", None)):
    pytest.importorskip(package, version, "the example needs openai (1.63, for Trio) and h11: demo group")

from chat_server import summarise  # noqa: E402 - needs h11
from research_agent import MODEL_LIMIT, MOST_ROUNDS, QUESTION, Research, TooLongError, build_graph  # noqa: E402

from trioflow import ExecutionError, MemoryStore, ParallelError  # noqa: E402 - after what may have to be skipped

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's"),
    pytest.mark.timeout(120),
]

IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


def command(examples, *options):
    return [sys.executable, "-W", "error", str(examples / "research_agent.py"), *map(str, options)]


def environment():
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**own, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


async def run_example(examples, *options):
    with trio.fail_after(100):
        done = await trio.run_process(
            command(examples, *options), env=environment(), capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def counts_in(output):
    """Read how many calls there were, were made again, and were saved."""
    return [
        int(number)
        for number in re.search(r"calls: (\d+), (\d+) of them .*; saved: (\d+)$", output.strip()).groups()
    ]


async def test_it_is_killed_and_resumed_and_pays_for_nothing_twice(examples, tmp_path):
    status, output, errors = await run_example(examples, "--store", tmp_path / "runs.db")

    assert (status, errors) == (0, ""), output
    assert output.startswith("flowchart TD")
    assert '-.->|"on TooLongError"|' in output
    killed, written = map(
        int, re.search(r"killed after (\d+) answers, of which (\d+) were written", output).groups()
    )
    calls, again, saved = counts_in(output)
    # the first round is over at the kill, and what was in hand is all that is made again
    assert 7 <= written == saved <= killed
    assert killed >= 9
    assert again <= killed - written
    path = re.search(r"^path of research: (.*)$", output, re.MULTILINE)[1]
    assert re.fullmatch(r"plan -> investigate -> judge( -> plan -> investigate -> judge)+ -> write", path)
    rounds = path.count("plan")
    # a plan, four topics and an opinion in each round, and the report
    assert calls - again == 6 * rounds + 1
    inner = re.findall(r"^path of research\.\.\d+/investigate\.\.opinion: (.*)$", output, re.MULTILINE)
    assert inner == ["ask -> shorten -> ask"] * rounds
    assert output.count("judge: ") == rounds

    status, output, errors = await run_example(examples, "--store", tmp_path / "runs.db")

    assert (status, errors) == (0, "")
    assert counts_in(output) == [0, 0, calls - again]


async def test_a_seed_gives_its_path_and_report_again_whatever_the_kill_cuts_short(examples):
    told = []

    async def run():
        status, output, errors = await run_example(examples, "--seed", 7, "--faults", 0.3)
        assert (status, errors) == (0, "")
        told.append(re.sub(r"killed after .*|calls: .*", "", output))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(run)
    assert told[0] == told[1]


async def test_a_service_that_always_fails_ends_it_with_one_line_that_names_the_node(examples):
    status, output, errors = await run_example(examples, "--faults", 1)

    assert status == 1
    assert counts_in(output) == [0, 0, 0]
    assert re.fullmatch(r"research agent: execution failed at node plan: \S.*\n", errors)


@pytest.mark.parametrize("before", [[], IGNORING_SIGINT], ids=["", "ignored before"])
async def test_ctrl_c_does_no_harm(tracebacks, examples, tmp_path, before):
    options = ("--store", tmp_path / "runs.db")
    output = b""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start_example, [*before, *command(examples, *options)])
            interrupted = False
            async for part in process.stdout:
                output += part
                if not interrupted and b"judge: " in output:
                    process.send_signal(signal.SIGINT)
                    interrupted = True

    assert process.returncode == 130, output
    assert output.decode().endswith("research agent: interrupted\n")
    assert not tracebacks(output), output

    status, output, errors = await run_example(examples, *options)

    assert (status, errors) == (0, ""), output
    assert "flowchart" not in output
    assert "-> write\n" in output


async def start_example(example, *, task_status):
    await trio.run_process(
        example,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        task_status=task_status,
    )


def test_help_says_what_may_be_given(examples):
    done = subprocess.run(command(examples, "--help"), capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--seed", "--faults", "--store"))
    assert "--child" not in done.stdout


# The graph by itself, with a service that is a function.


def refuse_long(text):
    if len(text) > MODEL_LIMIT:
        raise TooLongError("too long")


async def test_a_model_that_sees_nothing_in_the_notes_is_asked_for_so_many_rounds_only(autojump_clock):
    async def ask(prompt, text):
        refuse_long(text)
        await trio.sleep(1)
        return "Nothing." if prompt.startswith("Summarise") else text if prompt.startswith("Name") else ""

    result = await build_graph(ask).execute(Research(QUESTION))

    assert result.path.count("plan") == result.state.rounds == MOST_ROUNDS
    assert result.path[-1] == "write"
    assert len(set(result.state.read)) == len(result.state.read) == 4 * MOST_ROUNDS


async def test_topics_and_opinion_are_asked_for_at_the_same_time(autojump_clock):
    async def ask(prompt, text):
        refuse_long(text)
        await trio.sleep(1)
        return QUESTION

    started = trio.current_time()
    result = await build_graph(ask).execute(Research(QUESTION))

    assert result.path == ["plan", "investigate", "judge", "write"]
    # four topics by two, while the opinion is asked for
    assert trio.current_time() - started == pytest.approx(1 + 2 + 1)


async def test_another_failure_of_a_branch_fails_its_node_and_keeps_what_was_paid(autojump_clock):
    asked = []
    broken = True

    async def ask(prompt, text):
        refuse_long(text)
        if broken and prompt.endswith("from the texts."):
            await trio.sleep(10)
            raise OSError("no answer")
        asked.append(text)
        return summarise(text)

    store = MemoryStore()
    graph = build_graph(ask, store)
    with pytest.raises(ExecutionError, match="at node investigate: .*no answer") as caught:
        await graph.execute(Research(QUESTION), run_id="run")
    assert isinstance(caught.value.__cause__, ParallelError)
    assert [failure.item for failure in caught.value.__cause__.errors] == ["opinion"]

    broken = False
    result = await graph.resume("run")

    assert result.path[-1] == "write"
    assert len(set(asked)) == len(asked)

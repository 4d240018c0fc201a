"""The review loop, run as its reader runs it: it ends by a path that repeats, and a failure says where it was."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

for package, version in (("openai", "1.63"), ("h11", None)):
    pytest.importorskip(package, version, "the demo needs openai (1.63, for Trio) and h11: demo group")

from chat_server import FaultRates, open_chat_server, summarise  # noqa: E402 - needs h11
from document_review import MOST_REVISIONS, REVIEWERS, TOPIC, Review, build_graph, cut  # noqa: E402 - needs openai

from trioflow import ExecutionError  # noqa: E402 - after the examples, which may have to be skipped

pytestmark = pytest.mark.timeout(60)

NEVER = FaultRates(rate_limited=0, server_error=0, dropped=0, persistent=0)
LOOP = r"draft -> review -> decide( -> revise -> review -> decide)* -> publish"

IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


def command(examples: Path, *options: object) -> list[str]:
    return [sys.executable, "-W", "error", str(examples / "document_review.py"), *map(str, options)]


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**own, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1", **variables}


async def run_demo(examples: Path, *options: object, **variables: str) -> tuple[int, str, str]:
    with trio.fail_after(40):
        done = await trio.run_process(
            command(examples, *options),
            env=environment(**variables),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def path_in(output: str) -> str:
    """Read the path; fails on output without one."""
    line = re.search(r"^path: (.*?)\s*$", output, re.MULTILINE)
    assert line, output
    return line[1]


def verdicts_in(output: str) -> list[tuple[str, str]]:
    """Read who said what, over all rounds."""
    return re.findall(r"^ +(\w+) +(approves|rejects|no verdict) +\S", output, re.MULTILINE)


async def test_a_run_shows_the_graph_the_verdicts_the_path_and_the_text(examples):
    status, output, errors = await run_demo(examples)

    assert (status, errors) == (0, "")
    picture, _, progress = output.partition("\n\n")
    assert picture.startswith("flowchart TD")
    for node in ("draft", "review", "decide", "revise", "publish"):
        assert f'"{node}"' in picture
    for predicate in ("approved", "out_of_revisions"):
        assert f'|"{predicate}"|' in picture
    path = path_in(progress)
    assert re.fullmatch(LOOP, path)
    assert [name for name, _ in verdicts_in(progress)] == list(REVIEWERS) * path.count("review")
    assert progress.index("path: ") < progress.index('The "import" statement')


async def test_a_seed_gives_its_output_again_and_another_seed_another_one(examples):
    outputs: dict[int, list[str]] = {seed: [] for seed in range(6)}

    async def run(seed: int) -> None:
        status, output, errors = await run_demo(examples, "--seed", seed, "--faults", 0.3)
        assert (status, errors) == (0, "")
        outputs[seed].append(output)

    async with trio.open_nursery() as nursery:
        for seed in outputs:
            nursery.start_soon(run, seed)
            nursery.start_soon(run, seed)

    for first, second in outputs.values():
        assert first == second
        assert re.fullmatch(LOOP, path_in(first))
        assert path_in(first).count("revise") <= MOST_REVISIONS
    firsts = [first for first, _ in outputs.values()]
    assert len({tuple(verdicts_in(output)) for output in firsts}) > 1
    assert any("no verdict" in output for output in firsts)


async def test_without_faults_every_reviewer_gives_a_verdict(examples):
    status, output, errors = await run_demo(examples, "--faults", 0)

    assert (status, errors) == (0, "")
    assert "no verdict" not in output
    # the draft sums up a third of the text
    assert ("coverage", "rejects") in verdicts_in(output)


async def test_the_service_that_the_environment_names_is_used(examples):
    async with open_chat_server(faults=NEVER, latency=0) as base_url:
        variables = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "test", "OPENAI_MODEL": "any-model"}
        status, output, errors = await run_demo(examples, "--faults", 1, **variables)

    # the local server would have failed
    assert (status, errors) == (0, "")
    assert path_in(output)


async def test_a_service_that_always_fails_ends_it_with_one_line_that_names_the_node(examples):
    status, output, errors = await run_demo(examples, "--faults", 1)

    assert status == 1
    assert "path: " not in output
    assert re.fullmatch(r"document review: execution failed at node draft: \S.*\n", errors.replace("\r\n", "\n"))


async def test_a_service_that_cannot_be_reached_ends_it_the_same_way(examples):
    # nobody listens: the server is gone
    async with open_chat_server() as base_url:
        pass
    status, _, errors = await run_demo(examples, OPENAI_BASE_URL=base_url, OPENAI_API_KEY="test")

    assert status == 1
    assert re.fullmatch(r"document review: execution failed at node draft: \S.*\n", errors.replace("\r\n", "\n"))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("before", [[], IGNORING_SIGINT], ids=["", "ignored before"])
@pytest.mark.parametrize("after", ["flowchart", "draft:", "review:"])
async def test_ctrl_c_ends_it_without_a_traceback(tracebacks, examples, after, before):
    output = b""
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start_demo, [*before, *command(examples)])
            interrupted = False
            async for part in process.stdout:
                output += part
                if not interrupted and after.encode() in output:
                    process.send_signal(signal.SIGINT)
                    interrupted = True

    assert process.returncode == 130
    assert output.decode().endswith("document review: interrupted\n")
    assert not tracebacks(output), output
    assert b"path: " not in output


async def start_demo(demo: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        demo,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        task_status=task_status,
    )


@pytest.mark.parametrize("faults", [-0.1, 1.5, "nan", "many"])
async def test_shares_that_are_none_are_refused(examples, faults):
    status, _, errors = await run_demo(examples, f"--faults={faults}")

    assert status == 2
    assert "--faults" in errors


# The graph by itself, with a service that is a function.


TEXT = "The first part.\n\nCats sleep all day.\n\nCats hunt at night.\n\nCats never bark."


async def test_a_reviewer_that_fails_gives_no_verdict_and_the_others_decide():
    async def ask(prompt: str, text: str) -> str:
        if text.startswith("For the review of coverage"):
            raise OSError("no answer")
        return "First, this." if text.startswith("For the review") else summarise(text)

    result = await build_graph(ask).execute(cut(TEXT))

    assert result.path == ["draft", "review", "decide", "publish"]
    coverage, subject, style = result.state.verdicts
    assert (coverage.reviewer, coverage.approves, coverage.reason) == ("coverage", None, "failed: OSError")
    assert subject.approves is style.approves is True


async def test_a_draft_that_nobody_approves_is_published_after_the_last_revision():
    async def ask(prompt: str, text: str) -> str:
        return 40 * "wordless " + "." if text.startswith("For the review") else text.strip()

    result = await build_graph(ask).execute(cut(TEXT))

    assert result.state.approvals == 0
    assert result.state.revisions == result.path.count("revise") == MOST_REVISIONS
    # the title, and each part once, in its order
    assert result.state.draft == TEXT


async def test_the_reviser_is_told_what_the_reviewers_object_to():
    prompts: list[str] = []

    async def ask(prompt: str, text: str) -> str:
        prompts.append(prompt)
        return "Nothing." if text.startswith("For the review") else text

    result = await build_graph(ask).execute(cut(TEXT))

    assert result.state.revisions
    assert any("something else" in prompt for prompt in prompts)


async def test_reviewers_that_all_fail_fail_the_node_of_the_reviews(autojump_clock):
    async def ask(prompt: str, text: str) -> str:
        if text.startswith("For the review"):
            raise OSError("no answer")
        return "A draft."

    with pytest.raises(ExecutionError, match="at node review: .*3 items failed.*no answer") as caught:
        await build_graph(ask).execute(cut(TEXT))

    assert caught.value.path == ["draft", "review"]


def test_the_topic_is_cut_between_paragraphs_into_parts_of_about_the_same_length():
    from pydoc_data.topics import topics

    state = cut(topics[TOPIC])

    lengths = [len(part) for part in state.parts]
    assert state == Review(state.title, state.parts)
    assert len(lengths) == MOST_REVISIONS + 1
    assert 2 * min(lengths) > max(lengths)
    assert topics[TOPIC].strip().startswith(f"{state.title}\n{''.join(state.parts).rstrip()}")

"""The recipe of the batch that is killed: what was saved is not asked again, and what is asked again has its key."""

import os
import re

import pytest

pytest.importorskip("httpx2", reason="the recipe needs the httpx2 package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")


async def test_the_program_counts_what_a_kill_cost(run_recipe):
    output = await run_recipe("nightly.py")
    killed = re.search(r"killed after (\d+) requests: (\d+) answers are saved", output)
    made = re.search(r"(\d+) more requests, (\d+) of 60 are saved, (\d+) keys came twice", output)
    asked, saved = map(int, killed.groups())
    more, in_the_end, twice = map(int, made.groups())
    assert asked >= 30
    assert 0 < saved < asked
    assert in_the_end == 59
    assert "<ParallelResult: complete, 59 ok, 1 failed, 0 unfinished of 60>" in output
    # one ticket is refused once and one for good, at three attempts
    assert more <= (60 - saved) + 3
    # what was in hand at the kill, what had not been written yet, and the attempts at those two
    assert twice == asked + more - 60

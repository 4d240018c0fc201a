"""The fan-out by hand and the one with trioflow come to the same, and README counts their lines."""

import ast
import inspect
import io
import re
import tokenize
from pathlib import Path

import by_hand
import pytest
import trio
from by_hand import BatchError

WAYS = [by_hand.with_trioflow, by_hand.by_hand]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # Lines of a log are no part of what is compared.
    config = by_hand.ParallelConfig
    monkeypatch.setattr(by_hand, "ParallelConfig", lambda **settings: config(observer="noop", **settings))


class Service:
    """Answers, or fails, by item; counts what is asked of it."""

    def __init__(self, script):
        self.script = script
        self.calls = []
        self.now = self.most = 0

    async def __call__(self, item):
        self.calls.append(item)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep(0.01 + item / 1000)  # no two end at the same instant, where order is chance
            await self.script(item, self.calls.count(item))
        finally:
            self.now -= 1
        return item * 10


async def answers(item, attempt):
    pass


async def fails_some(item, attempt):
    if item % 4 == 1:
        raise ConnectionError(item)


async def recovers(item, attempt):
    if attempt < 3 and item % 3 == 0:
        raise ConnectionError(item)


async def hangs_some(item, attempt):
    if item % 5 == 2:
        await trio.sleep_forever()


async def fails_all(item, attempt):
    raise ValueError(item)


async def fails_late(item, attempt):
    await trio.sleep(0.5 if item == 3 else 0.1 * item)
    if item == 3:
        raise ValueError(item)


async def interrupted(item, attempt):
    if item == 4:
        raise KeyboardInterrupt


async def comes_to(way, script, items, **settings):
    """What there is to be seen of one batch."""
    service = Service(script)
    options = {"workers": 3, "attempts": 3, "time_limit": 1.0, "fail_fast": False} | settings
    began = trio.current_time()
    try:
        account = await way(items, service, **options)
    except BatchError as error:
        ended = "failed", error.account
    except (Exception, KeyboardInterrupt) as error:
        ended = "raised", repr(error)
    else:
        ended = "returned", account
    took = trio.current_time() - began
    return *ended, sorted(service.calls), service.most, round(took, 3)


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.parametrize("script", [answers, fails_some, recovers, hangs_some, fails_all, fails_late, interrupted])
async def test_both_ways_come_to_the_same(script, fail_fast, autojump_clock):
    short, long = [await comes_to(way, script, range(12), fail_fast=fail_fast) for way in WAYS]
    assert short == long
    assert short[3] == 3


async def test_both_make_an_account_of_what_failed(autojump_clock):
    for way in WAYS:
        how, account, *_ = await comes_to(way, fails_some, range(6), attempts=2)
        assert how == "returned"
        assert account == ([0, 20, 30, 40], [(1, "ConnectionError", 2), (5, "ConnectionError", 2)], [])
        how, account, *_ = await comes_to(way, fails_some, range(6), attempts=1, fail_fast=True, workers=2)
        assert how == "failed"
        assert account.errors == [(1, "ConnectionError", 1)]
        assert set(account.unfinished) >= {3, 4, 5}


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancellation_passes_through_and_nothing_begins_after_it(way, autojump_clock):
    service = Service(answers)
    with trio.move_on_after(0.025) as scope:
        await way([0] * 100, service, workers=2, attempts=3, time_limit=1, fail_fast=True)
    assert scope.cancelled_caught
    begun = len(service.calls)
    await trio.sleep(10)
    assert len(service.calls) == begun == 6


@pytest.mark.parametrize("way", WAYS)
async def test_a_failure_beats_a_cancellation(way, autojump_clock):
    async def fails_at_once(item, attempt):
        scope.cancel()
        raise ValueError(item)

    with trio.CancelScope() as scope, pytest.raises(BatchError):
        await way(range(5), Service(fails_at_once), workers=2, attempts=1, time_limit=1, fail_fast=True)


@pytest.mark.parametrize("way", WAYS)
async def test_an_async_source_is_pulled_no_further_than_needed_and_closed(way, autojump_clock):
    pulled, closed = [], []

    async def source():
        try:
            for number in range(50):
                pulled.append(number)
                yield number
        finally:
            await trio.lowlevel.checkpoint()
            closed.append(True)

    async def fails_at_nine(item, attempt):
        assert len(pulled) <= item + 2 * 3 + 1
        if item == 9:
            raise ValueError(item)

    outcome = await comes_to(way, fails_at_nine, source(), attempts=1, fail_fast=True)
    assert outcome[0] == "failed"
    assert outcome[1].errors == [(9, "ValueError", 1)]
    assert closed == [True]
    assert len(pulled) < 20


@pytest.mark.parametrize("way", WAYS)
async def test_what_the_source_raises_comes_out_bare(way, autojump_clock):
    def source():
        yield 1
        raise LookupError("the source is broken")

    assert (await comes_to(way, answers, source()))[:2] == ("raised", "LookupError('the source is broken')")


def code_lines(*definitions):
    """Lines that are neither blank nor a comment nor a docstring."""
    count = 0
    for definition in definitions:
        source = inspect.getsource(definition)
        docstrings = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef | ast.FunctionDef) and ast.get_docstring(node):
                docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        passed = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
        lines = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in passed:
                lines.update(range(token.start[0], token.end[0] + 1))
        count += len(lines - docstrings)
    return count


def test_readme_counts_the_lines_of_both():
    long = code_lines(by_hand.by_hand, by_hand._Batch, by_hand.each_of)
    short = code_lines(by_hand.with_trioflow)
    text = " ".join((Path(by_hand.__file__).parents[1] / "README.md").read_text().split())
    assert re.search(r"by hand it takes (\d+) lines, with trioflow (\d+)", text).groups() == (str(long), str(short))

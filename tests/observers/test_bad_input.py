"""What is hostile or broken around an observer: no run fails of it, and each is said once."""

import errno
import io
import json
import time

import pytest
import trio
from rich.console import Console

from trioflow import (
    EventStream,
    LoggingObserver,
    LoguruObserver,
    MetricsObserver,
    MultiObserver,
    OtelObserver,
    ParallelConfig,
    ProgressObserver,
    RecordingObserver,
    RetryConfig,
    TraceObserver,
    process_parallel,
)
from trioflow._text import LINE_LIMIT
from trioflow.observers._lines import Lines

HUGE = "x\n\x1b[31m" * 1_250_000
COLLECT = ParallelConfig(max_workers=2, fail_fast=False, retry=RetryConfig(max_attempts=2, initial_delay=1))


async def fail_hugely(item):
    await trio.lowlevel.checkpoint()
    if item % 2:
        raise ValueError(HUGE)
    return HUGE


def every_observer(path):
    return {
        "loguru": LoguruObserver(),
        "logging": LoggingObserver(),
        "metrics": MetricsObserver(),
        "trace": TraceObserver(path),
        "otel": OtelObserver(),
        "progress": ProgressObserver(Console(file=io.StringIO(), force_terminal=True, width=1)),
        "plain progress": ProgressObserver(Console(file=io.StringIO(), width=1)),
        "stream": EventStream(limit=10),
        "recording": RecordingObserver(limit=10),
    }


async def test_texts_of_ten_megabytes_fail_no_run_under_any_observer(tmp_path, log, autojump_clock):
    path = tmp_path / "run.json"
    everyone = every_observer(path)
    before = time.perf_counter()
    result = await process_parallel(range(6), fail_hugely, config=COLLECT, observer=MultiObserver(*everyone.values()), run_id=HUGE)
    assert time.perf_counter() - before < 10
    assert (len(result.results), len(result.errors)) == (3, 3)
    assert everyone["recording"].events[-1].data["observer_failures"] == 0
    everyone["trace"].close()
    assert path.stat().st_size < 50_000
    json.loads(path.read_bytes())
    assert all(len(line) < 5 * LINE_LIMIT and line.isprintable() for _, line in log)


def test_a_message_of_a_megabyte_costs_what_is_shown_of_it():
    from trioflow import Event, EventType

    def seconds(message):
        data = {"worker_id": 0, "item_index": 1, "status": "error", "error": True, "error_type": "E", "duration": 0.1}
        event = Event(EventType.WORKER_COMPLETE, 1.0, "hub", "run", {**data, "error_message": message})
        lines, best = Lines(), 1.0
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(50):
                for line in lines.of(event):
                    str(line)
            best = min(best, time.perf_counter() - began)
        return best

    # Measured: 1.0; the bound leaves room for a machine that does something else.
    assert seconds("\n" * 1_000_000) < 5 * seconds("\n" * LINE_LIMIT)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error")])
async def test_a_disk_that_fails_while_tracing_is_one_warning_and_the_rest_is_kept(tmp_path, log, monkeypatch, error):
    async def work(item):
        await trio.lowlevel.checkpoint()
        return item

    path = tmp_path / "run.json"
    trace = TraceObserver(path)
    for number in range(3):
        result = await process_parallel(range(3000), work, config=COLLECT, observer=trace, run_id=f"r{number}")
        assert len(result.results) == 3000
        if number == 0:
            good = json.loads(path.read_bytes())

            def fail(file, data):
                raise error

            monkeypatch.setattr(trace._file, "_put", fail)
    monkeypatch.undo()
    trace.close()
    assert len(good) > 3000
    assert len([line for line in log.at("WARNING") if "TraceObserver" in line]) == 1


async def test_an_sdk_that_raises_everywhere_is_one_warning(log):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("the SDK is broken")

        def get_tracer(self, *args, **kwargs):
            return self

    async def work(item):
        return item

    result = await process_parallel(range(50), work, config=COLLECT, observer=OtelObserver(Broken()))
    assert len(result.results) == 50
    assert len(log.at("WARNING")) == 1
    assert "the SDK is broken" in log.at("WARNING")[0]


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("terminal", [True, False])
async def test_the_narrowest_terminal_fails_no_run(width, terminal, log):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width)
    progress = ProgressObserver(console, interval=0.000001, line_interval=0.000001)

    async def work(item):
        await trio.lowlevel.checkpoint()
        return item

    result = await process_parallel(range(20), work, config=COLLECT, observer=progress, run_id="nightly")
    assert len(result.results) == 20
    assert log.at("WARNING") == []
    assert file.getvalue()

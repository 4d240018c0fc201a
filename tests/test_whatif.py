"""`trioflow whatif`: a recorded fan-out, run again with other settings on a clock that jumps."""

import json
from pathlib import Path

import pytest

pytest.importorskip("cyclopts", reason="the command line needs the extra cli")

import trio

from trioflow import Event, EventType, ParallelConfig, RetryConfig, TraceObserver, process_parallel
from trioflow.cli import main
from trioflow.cli._recorded import read_recorded
from trioflow.cli._whatif import Prediction, Retry, Setting, find_knee, predict

OK = {"status": "ok", "error": False, "error_type": None, "error_message": None}
BAD = {"status": "error", "error": True, "error_type": "OSError", "error_message": "reset"}


class Recording:
    """Writes a trace of a fan-out whose items take what is said, without waiting for them."""

    def __init__(self, path, workers=1, run_id="nightly"):
        self.trace = TraceObserver(path)
        self.run_id = run_id
        self.now = 1000.0
        self.index = 0
        self.see(EventType.PARALLEL_START, {"item_count": None, "worker_count": workers, "fail_fast": False})

    def see(self, type, data, worker=None):
        if worker is not None:
            data = {"worker_id": worker, "item_index": self.index, "total_items": None, **data}
        self.trace.on_event(Event(type, self.now, "parallel", self.run_id, data))

    def item(self, duration, ending=OK, failures=()):
        """An item whose attempts fail after the first of each pair and are waited for as long as the second."""
        began = self.now
        self.see(EventType.WORKER_START, {}, 0)
        for number, (took, delay) in enumerate(failures, 1):
            self.now += took
            self.see(EventType.TASK_RETRY, {"attempt": number, "delay": delay, "error_type": "OSError", "error_message": "reset"}, 0)
            self.now += delay
        self.now += duration
        end = {**ending, "attempts": len(failures) + 1, "duration": self.now - began}
        self.see(EventType.WORKER_COMPLETE, end, 0)
        self.index += 1

    def end(self):
        self.see(EventType.PARALLEL_COMPLETE, {**OK, "items_processed": self.index, "duration": self.now - 1000.0})
        self.trace.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.json")


@pytest.fixture
def plain(path):
    """Eight items of a second each."""
    recording = Recording(path)
    for _ in range(8):
        recording.item(1.0)
    recording.end()
    return path


def ask(capsys, *arguments):
    assert main(["whatif", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def seconds(told):
    return [round(prediction["duration"], 6) for prediction in told["predictions"]]


def test_more_workers_take_less_time(plain, capsys):
    told = ask(capsys, plain, "--workers", "1,2,3,8,64")
    assert seconds(told) == [8, 4, 3, 1, 1]
    assert [prediction["peak"] for prediction in told["predictions"]] == [1, 2, 3, 8, 8]
    assert told["recorded"] == {"run": "nightly", "items": 8, "failed": 0, "cut_short": 0, "workers": 1, "duration": 8.0}


def test_a_rate_spaces_the_attempts(plain, capsys):
    assert seconds(ask(capsys, plain, "--workers", "8", "--rate", "none,2,0.5")) == [1, 4.5, 15]


def test_without_settings_it_is_what_was_recorded(plain, capsys):
    assert seconds(ask(capsys, plain)) == [8]


@pytest.fixture
def unsteady(path):
    recording = Recording(path)
    recording.item(1.0, failures=[(0.5, 3.0)])
    recording.item(2.0, BAD, failures=[(2.0, 1.0), (2.0, 1.0)])
    recording.item(1.0)
    recording.end()
    return path


def test_attempts_and_their_delays_are_as_recorded(unsteady, capsys):
    told = ask(capsys, unsteady)
    assert seconds(told) == [4.5 + 8 + 1]
    assert (told["predictions"][0]["failed"], told["predictions"][0]["attempts"]) == (1, 6)


def test_fewer_attempts_fail_more_items_and_more_end_as_the_last_one_did(unsteady, capsys):
    told = ask(capsys, unsteady, "--retry", "1,2,4")
    assert [prediction["failed"] for prediction in told["predictions"]] == [2, 1, 1]
    # The delay after an attempt that was not repeated is a back-off: 0.1, doubled twice.
    assert seconds(told) == [0.5 + 2 + 1, 4.5 + 5 + 1, 4.5 + 8 + 0.4 + 2 + 1]


def test_a_back_off_takes_the_place_of_the_delays_that_were_recorded(unsteady, capsys):
    assert seconds(ask(capsys, unsteady, "--retry", "3:0.25")) == [1.75 + 6.75 + 1]


def test_items_that_were_cut_short_are_left_out(path, capsys):
    recording = Recording(path)
    recording.item(1.0)
    recording.item(5.0, {"status": "cancelled", "error": False, "error_type": None, "error_message": None})
    recording.end()
    told = ask(capsys, path)
    assert (told["recorded"]["items"], told["recorded"]["cut_short"]) == (1, 1)
    assert main(["whatif", path]) == 0
    assert "left out: 1 interrupted items" in capsys.readouterr().out


async def test_a_real_run_is_read_as_it_was(path):
    failed = set()

    async def work(item):
        await trio.sleep(0.002 * item)
        if item % 2 and item not in failed:
            failed.add(item)
            raise OSError
        if item == 4:
            raise LookupError
        return item

    config = ParallelConfig(max_workers=3, fail_fast=False, retry=RetryConfig(max_attempts=2, initial_delay=0.004, jitter=False))
    with TraceObserver(path) as trace:
        await process_parallel(range(6), work, config=config, observer=trace, run_id="real")
    recorded = await trio.to_thread.run_sync(read_recorded, path, "real")
    assert [len(attempts) for attempts in recorded.items] == [1, 2, 1, 2, 2, 2]
    assert [attempts[-1].error_type for attempts in recorded.items] == [None] * 4 + ["LookupError", None]
    assert recorded.items[1][0].delay == pytest.approx(0.004)
    for index, attempts in enumerate(recorded.items):
        assert all(attempt.duration >= 0.002 * index * 0.99 for attempt in attempts)
    assert (recorded.worker_count, recorded.failed, recorded.most_attempts) == (3, 1, 2)
    predicted = await trio.to_thread.run_sync(predict, recorded, Setting(3))
    assert predicted.duration <= recorded.duration * 1.05


def test_of_several_fan_outs_the_one_with_most_to_do_is_taken_or_the_one_that_is_named(tmp_path, capsys):
    lines = []
    for name, seconds_each in (("short", 1.0), ("long", 9.0)):
        part = tmp_path / name
        recording = Recording(part, run_id=name)
        recording.item(seconds_each)
        recording.end()
        shift = len(lines) * 100
        for entry in json.loads(part.read_text()):
            lines.append({**entry, "pid": entry["pid"] + shift, "tid": entry["tid"] + shift})
    path = tmp_path / "both.json"
    path.write_text("[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")
    assert ask(capsys, str(path))["recorded"]["run"] == "long"
    assert ask(capsys, str(path), "--run", "short")["recorded"]["run"] == "short"
    assert main(["whatif", str(path), "--run", "lang"]) == 1
    assert "has no fan-out 'lang' (did you mean 'long'? known: 'short', 'long')" in capsys.readouterr().err


# The knee.


def test_the_fewest_workers_near_the_best_are_recommended(plain, capsys):
    told = ask(capsys, plain, "--recommend")
    assert [prediction["workers"] for prediction in told["predictions"]] == [1, 2, 4, 8]
    assert told["recommended"]["workers"] == 8
    assert main(["whatif", plain, "--recommend"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "recommended: 8 workers, rate none, retry as recorded: 1 s"


def test_a_setting_with_more_failures_is_no_best():
    settings = [Setting(workers, None, Retry(attempts)) for attempts in (1, 3) for workers in (4, 8, 16)]
    numbers = [(9.0, 5), (5.0, 5), (4.0, 5), (12.0, 1), (8.3, 1), (8.0, 1)]
    predictions = [
        Prediction(setting, duration, 1, failed, 1) for setting, (duration, failed) in zip(settings, numbers, strict=True)
    ]
    assert find_knee(predictions).setting == Setting(8, None, Retry(3))


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers must be numbers from 1 to 100000"),
        (["--workers", "8,,9"], "workers must be"),
        (["--workers", "1000001"], "workers must be"),
        (["--rate", "-1"], "rate must be positive numbers, or none"),
        (["--rate", "nan"], "rate must be"),
        (["--rate", "fast"], "rate must be"),
        (["--retry", "0"], "retry must be numbers of attempts from 1 on"),
        (["--retry", "3:"], "retry must be"),
        (["--retry", "3:1.2.3"], "retry must be"),
        (["--workers", ",".join(["1"] * 501)], "there are 501 settings to try, of at most 500"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(plain, capsys, arguments, message):
    assert main(["whatif", plain, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_trace_without_a_fan_out_is_said_in_a_line(path, capsys):
    with TraceObserver(path):
        pass
    assert main(["whatif", path]) == 1
    assert "has no fan-out with items that ended" in capsys.readouterr().err
    assert main(["whatif", path + "x", "--json"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_entries_of_any_shape_break_nothing(path, capsys):
    entries = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": "parallel odd"}},
        {"ph": "B", "pid": 1, "tid": 1, "ts": 0, "name": "x", "args": {"worker_count": "many"}},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 0, "dur": 1e6, "name": "item x", "args": {"duration": -1}},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 0, "dur": 1e6, "name": "item 7", "args": {"duration": True, "delay": "soon"}},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 0, "dur": 5e5, "name": "a", "cat": "attempt", "args": {"error_type": 3, "delay": None}},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 0, "dur": 1e6, "name": "item 8", "args": {"status": 4}},
    ]
    Path(path).write_text("[\n" + ",\n".join(map(json.dumps, entries)))
    told = ask(capsys, path, "--workers", "1")
    assert seconds(told) == [2.5]
    assert told["predictions"][0]["failed"] == 1

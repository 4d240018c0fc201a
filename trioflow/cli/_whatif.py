"""`trioflow whatif`: how long a recorded fan-out would have taken with other settings.

The engine itself runs the items again, on a clock that jumps from one event to the next: each attempt takes as
long as it was recorded, and has the same outcome. Only the user's code is modelled, so the engine's behaviour at
the end of a run, for retries or for a rate is correct by construction.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Final, TypeVar

import msgspec
import trio
import trio.testing

from trioflow.cli._printing import print_json, print_table, say, show_time
from trioflow.cli._recorded import Attempt, RecordedRun, read_recorded
from trioflow.config import ParallelConfig, RetryConfig
from trioflow.config.checks import check_number
from trioflow.errors import ConfigError
from trioflow.observers import NoopObserver
from trioflow.policies import with_retry
from trioflow.workflows import process_parallel

V = TypeVar("V")

NEAR_THE_BEST: Final = 1.05
"""A recommended setting takes at most this many times the shortest time."""

_MOST_SETTINGS = 500
_MOST_WORKERS = 100_000
_MOST_TRIED = 1_024
"""The most workers that are tried for a recommendation, if none are given."""
_RETRY = re.compile(r"(\d{1,6})(?::([\d.]+))?")


def whatif(
    file: str,
    *,
    workers: str | None = None,
    rate: str | None = None,
    retry: str | None = None,
    run: str | None = None,
    recommend: bool = False,
    json: bool = False,
) -> int:
    """Replay the items of a trace with other settings, on a clock that jumps, and print how long that takes.

    Args:
        file: a file written by `TraceObserver`.
        workers: numbers of workers, such as 8,32,64; as recorded by default.
        rate: attempts that may start in a second, such as 10,50; "none" is no limit, the default.
        retry: attempts at an item, such as 1,3; 3:0.5 has a back-off that starts with half a second instead of the
            recorded delays. As recorded by default.
        run: the run, if the file has several fan-outs; the largest one by default.
        recommend: recommend the fewest workers that take at most 5 % longer than the fastest setting.
        json: print JSON instead of a table; times are in seconds.
    """
    asked_workers = None if workers is None else _parse(workers, _worker_count)
    rates = [None] if rate is None else _parse(rate, _rate)
    retries = [None] if retry is None else _parse(retry, _retry)
    recorded = read_recorded(file, run)
    counts = asked_workers or (_usual_counts(recorded) if recommend else [max(1, recorded.worker_count)])
    settings = [Setting(*each) for each in product(counts, rates, retries)]
    if len(settings) > _MOST_SETTINGS:
        raise ConfigError(f"there are {len(settings)} settings to try, of at most {_MOST_SETTINGS}: name fewer")
    predictions = [predict(recorded, setting) for setting in settings]
    chosen = find_knee(predictions) if recommend else None
    if json:
        _print_json(recorded, predictions, chosen)
    else:
        _print(recorded, predictions, chosen)
    return 0


class Retry(msgspec.Struct, frozen=True):
    """The most attempts at an item, and the first delay."""

    attempts: int
    initial_delay: float | None = None
    """The first delay of a back-off, in seconds; None is the recorded delays."""

    def __str__(self) -> str:
        return f"{self.attempts}" if self.initial_delay is None else f"{self.attempts}:{self.initial_delay:g}"


class Setting(msgspec.Struct, frozen=True):
    """The settings of a replay; None is no rate limit, and retries as recorded."""

    workers: int
    rate: float | None = None
    retry: Retry | None = None


class Prediction(msgspec.Struct, frozen=True):
    """The predicted result of a setting."""

    setting: Setting
    duration: float
    """Seconds from the start to the end."""
    peak: int
    """The most concurrent attempts."""
    failed: int
    """Failed items."""
    attempts: int
    """Attempts in total."""


def predict(recorded: RecordedRun, setting: Setting) -> Prediction:
    """Replay the recorded items with this setting, on a clock that jumps."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(partial(_replay, recorded, setting), clock=clock)


def find_knee(predictions: Sequence[Prediction]) -> Prediction:
    """Return the prediction with the fewest workers that is close to the best.

    Of those with the fewest failures, the best is the shortest; close is at most `NEAR_THE_BEST` times that.
    """
    fewest = min(prediction.failed for prediction in predictions)
    sound = [prediction for prediction in predictions if prediction.failed == fewest]
    most = NEAR_THE_BEST * min(prediction.duration for prediction in sound)
    near = [prediction for prediction in sound if prediction.duration <= most]
    return min(near, key=lambda prediction: (prediction.setting.workers, prediction.duration))


# The run.


class _Failed(Exception):  # noqa: N818 - stands for the recorded error, which has its own name
    """An attempt failed, as recorded."""

    def __init__(self, attempt: Attempt, *, repeated: bool) -> None:
        super().__init__(attempt.error_type)
        self.delay = attempt.delay
        self.repeated = repeated


class _Item:
    """A recorded item, and the attempts at it in the replay."""

    __slots__ = ("attempts", "made")

    def __init__(self, attempts: tuple[Attempt, ...]) -> None:
        self.attempts = attempts
        self.made = 0


class _Calls:
    """Stands for the user's code."""

    def __init__(self) -> None:
        self.made = self.peak = self._under_way = 0

    async def call(self, item: _Item) -> None:
        """Take as long as the recorded attempt, and end like it; further attempts repeat the last one.

        Cancellation: passes through.
        """
        attempt = item.attempts[min(item.made, len(item.attempts) - 1)]
        item.made += 1
        self.made += 1
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            await trio.sleep(attempt.duration)
        finally:
            self._under_way -= 1
        if attempt.error_type is not None:
            raise _Failed(attempt, repeated=item.made < len(item.attempts))


async def _replay(recorded: RecordedRun, setting: Setting) -> Prediction:
    calls, items = _Calls(), [_Item(attempts) for attempts in recorded.items]
    config = ParallelConfig(
        max_workers=min(setting.workers, len(items)),
        max_per_second=setting.rate,
        fail_fast=False,
        raise_if_all_failed=False,
    )
    processor = with_retry(
        calls.call,
        _retry_config(recorded, setting.retry),
        on=_was_repeated if setting.retry is None else _Failed,
        delay=_recorded_delay if setting.retry is None or setting.retry.initial_delay is None else None,
    )
    began = trio.current_time()
    result = await process_parallel(items, processor, config=config, observer=NoopObserver())
    return Prediction(setting, trio.current_time() - began, calls.peak, len(result.errors), calls.made)


def _retry_config(recorded: RecordedRun, retry: Retry | None) -> RetryConfig:
    if retry is None:
        return RetryConfig(max_attempts=recorded.most_attempts, jitter=False)
    if retry.initial_delay is None:
        return RetryConfig(max_attempts=retry.attempts, jitter=False)
    return RetryConfig(max_attempts=retry.attempts, initial_delay=retry.initial_delay, jitter=False)


def _was_repeated(error: Exception) -> bool:
    return isinstance(error, _Failed) and error.repeated


def _recorded_delay(error: Exception) -> float | None:
    return error.delay if isinstance(error, _Failed) else None


# Parsing of the options.


def _usual_counts(recorded: RecordedRun) -> list[int]:
    """Return the powers of two up to the number of items, and the recorded number of workers."""
    most = min(len(recorded.items), _MOST_TRIED)
    counts = {min(2**power, most) for power in range(most.bit_length() + 1)}
    return sorted(counts | {max(1, recorded.worker_count)})


def _parse(text: str, parse: Callable[[str], V]) -> list[V]:
    return [parse(part.strip()) for part in text.split(",")]


def _worker_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise ConfigError.refusing("workers", text, f"numbers from 1 to {_MOST_WORKERS}, such as 8,32,64")
    return int(text)


def _rate(text: str) -> float | None:
    if text == "none":
        return None
    allowed = "positive numbers, or none, such as 10,50,none"
    try:
        rate = float(text)
    except ValueError:
        raise ConfigError.refusing("rate", text, allowed) from None
    check_number("rate", rate, allowed=allowed)
    return rate


def _retry(text: str) -> Retry:
    match = _RETRY.fullmatch(text)
    allowed = "numbers of attempts from 1 on, each with the seconds before the second one or without: 1,3,5:0.5"
    try:
        if match is not None and int(match[1]) >= 1:
            return Retry(int(match[1]), None if match[2] is None else float(match[2]))
    except ValueError:
        pass
    raise ConfigError.refusing("retry", text, allowed)


# Output.


def _print(recorded: RecordedRun, predictions: Sequence[Prediction], chosen: Prediction | None) -> None:
    counts = f"{len(recorded.items)} items, {recorded.failed} failed, {recorded.worker_count} workers"
    say(f"recorded: {recorded.name}, {counts}, {show_time(recorded.duration)}")
    if recorded.cut_short:
        say(f"left out: {recorded.cut_short} interrupted items")
    say("")
    columns = ("workers", "rate", "retry", "time", "peak in flight", "failed", "attempts")
    print_table(columns, [_row(prediction) for prediction in predictions])
    if chosen is not None:
        workers, rate, retry, duration, *_ = _row(chosen)
        say(f"\nrecommended: {workers} workers, rate {rate}, retry {retry}: {duration}")


def _row(prediction: Prediction) -> list[str]:
    setting = prediction.setting
    rate = "none" if setting.rate is None else f"{setting.rate:g}"
    retry = "as recorded" if setting.retry is None else str(setting.retry)
    numbers = (prediction.peak, prediction.failed, prediction.attempts)
    return [str(setting.workers), rate, retry, show_time(prediction.duration), *map(str, numbers)]


def _print_json(recorded: RecordedRun, predictions: Sequence[Prediction], chosen: Prediction | None) -> None:
    print_json(
        {
            "recorded": {
                "run": recorded.name,
                "items": len(recorded.items),
                "failed": recorded.failed,
                "cut_short": recorded.cut_short,
                "workers": recorded.worker_count,
                "duration": recorded.duration,
            },
            "predictions": [_flat(prediction) for prediction in predictions],
            "recommended": None if chosen is None else _flat(chosen),
        }
    )


def _flat(prediction: Prediction) -> dict[str, object]:
    setting = prediction.setting
    retry = None if setting.retry is None else msgspec.to_builtins(setting.retry)
    counts = {"peak": prediction.peak, "failed": prediction.failed, "attempts": prediction.attempts}
    return {
        "workers": setting.workers,
        "rate": setting.rate,
        "retry": retry,
        "duration": prediction.duration,
        **counts,
    }

"""How near does `trioflow whatif` come to what then really happens?

    python benchmarks/check_whatif.py [--items 160] [--repeat 2] [--json FILE] [--check]

A fan-out is recorded once, of calls that wait: for lengths of time that differ a lot, some failing once with a
`Retry-After`, some always. Then each of twenty settings is predicted from the trace, and really run. The table is
Markdown; with `--check` the exit status is 1 if a prediction is off by more than five per cent.
"""

import argparse
import json
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio
from measuring import add_arguments, environment, positive

from trioflow import NoopObserver, ParallelConfig, RetryConfig, TraceObserver, process_parallel, with_retry
from trioflow.cli._recorded import read_recorded
from trioflow.cli._whatif import Retry, Setting, predict

RECORDED_WORKERS = 8
RECORDED_ATTEMPTS = 4
MOST_OFF = 5
SETTINGS = [
    *[Setting(workers) for workers in (2, 3, 4, 6, 8, 12, 16, 24, 32, 64)],
    *[Setting(workers, 150) for workers in (4, 16, 64)],
    Setting(16, 60),
    *[Setting(workers, None, Retry(1)) for workers in (4, 16)],
    *[Setting(workers, None, Retry(2)) for workers in (8, 32)],
    Setting(8, None, Retry(3, 0.1)),
    Setting(16, 120, Retry(3, 0.05)),
]


class RefusedError(Exception):
    """The service says when to come back."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("try later")
        self.retry_after = retry_after


@dataclass
class Call:
    """An item: how long its attempts take, and how many of them fail."""

    durations: list[float]
    failures: int
    made: int = 0

    async def make(self) -> None:
        attempt = self.made
        self.made += 1
        await trio.sleep(self.durations[attempt])
        if attempt < self.failures:
            raise RefusedError(0.03)


def calls(items: int) -> list[Call]:
    """The same items each time: log-normal durations around 25 ms, an eighth of them failing once or for good."""
    drawn = random.Random(7)
    made = []
    for _ in range(items):
        durations = [min(0.2, drawn.lognormvariate(-3.7, 0.7)) for _ in range(RECORDED_ATTEMPTS)]
        failures = drawn.choices((0, 1, RECORDED_ATTEMPTS), weights=(28, 3, 1))[0]
        made.append(Call(durations, failures))
    return made


def run(items: int, setting: Setting, observer: object) -> tuple[float, int]:
    """Run it really, and return the seconds that it took and how many items failed."""
    retry = setting.retry or Retry(RECORDED_ATTEMPTS)
    initial, delay = retry.initial_delay, None
    if initial is None:
        initial, delay = 0.1, lambda error: error.retry_after
    policy = RetryConfig(max_attempts=retry.attempts, initial_delay=initial, jitter=False)
    processor = with_retry(Call.make, policy, on=RefusedError, delay=delay)
    config = ParallelConfig(max_workers=setting.workers, max_per_second=setting.rate, fail_fast=False)

    async def main() -> tuple[float, int]:
        began = trio.current_time()
        result = await process_parallel(calls(items), processor, config=config, observer=observer)
        return trio.current_time() - began, len(result.errors)

    return trio.run(main)


def compare(items: int, repeat: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recorded.json"
        with TraceObserver(path) as trace:
            run(items, Setting(RECORDED_WORKERS), trace)
        recorded = read_recorded(str(path), None)
    rows: list[dict[str, object]] = []
    for setting in SETTINGS:
        predicted = predict(recorded, setting)
        took, failed = min(run(items, setting, NoopObserver()) for _ in range(repeat))
        rows.append(
            {
                "workers": setting.workers,
                "rate": "none" if setting.rate is None else f"{setting.rate:g}",
                "retry": "as recorded" if setting.retry is None else str(setting.retry),
                "predicted": predicted.duration,
                "real": took,
                "off": 100 * (predicted.duration / took - 1),
                "failed": (predicted.failed, failed),
            }
        )
    return rows


def print_markdown(rows: list[dict[str, object]]) -> None:
    print("| workers | rate | retry | predicted | real | off | failed, predicted and real |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        first = f"| {row['workers']} | {row['rate']} | {row['retry']} |"
        failed = ", ".join(map(str, row["failed"]))
        print(f"{first} {row['predicted']:.3f} s | {row['real']:.3f} s | {row['off']:+.1f} % | {failed} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=160, help="items of each run")
    add_arguments(parser)
    parser.set_defaults(repeat=2)
    arguments = parser.parse_args()
    rows = compare(arguments.items, arguments.repeat)
    print_markdown(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2) + "\n")
    wrong = [row for row in rows if abs(row["off"]) > MOST_OFF or len(set(row["failed"])) > 1]
    worst = max(abs(row["off"]) for row in rows)
    off = f"{len(wrong)} of {len(rows)} predictions are off by more than {MOST_OFF} %"
    print(f"\n{off}; the worst by {worst:.1f} %")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())

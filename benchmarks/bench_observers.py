"""What does an item cost more where somebody looks on?

    python benchmarks/bench_observers.py [--items 20000] [--repeat 5] [--json FILE] [--check]

One fan-out of calls that do nothing, under each observer in turn; a silent run stands first. What an observer adds
is the difference to that. With `--check` the exit status is 1 if a limit is missed.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter

import trio
from measuring import (
    About,
    Contender,
    Limit,
    Role,
    Row,
    add_arguments,
    compare,
    compare_added,
    is_installed,
    positive,
    report,
)

from trioflow import (
    EventStream,
    LoggingObserver,
    LoguruObserver,
    MetricsObserver,
    MultiObserver,
    NoopObserver,
    Observer,
    OtelObserver,
    ParallelConfig,
    ProgressObserver,
    RecordingObserver,
    TraceObserver,
    process_parallel,
)

LEGEND = "what an item takes with the observer, less what it takes without"
ABOUT = {
    "a": About(
        "what each observer adds to an item that does nothing; what it does at its end counts too.",
        "the same fan-out under each in turn, less a silent one. Nothing that they write leaves the process but "
        "the trace, which goes to a file.",
    ),
    "b": About("the same for the observer that is there by default.", "its sink writes nowhere."),
}
WORKERS = 16

Make = Callable[[Path], AbstractContextManager[Observer]]


async def noop(item: int) -> int:
    return item


def plain(observer: Callable[[], Observer]) -> Make:
    return lambda _: nullcontext(observer())


def seconds(make: Make, items: int) -> float:
    """Time one run; what the observer does at its end is a part of it."""
    config = ParallelConfig(max_workers=WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        observer = make(Path(folder))
        start = perf_counter()
        with observer as opened:
            trio.run(partial(process_parallel, range(items), noop, config=config, observer=opened))
        return perf_counter() - start


def progress_at_a_terminal() -> Observer:
    from rich.console import Console  # noqa: PLC0415 - the extra

    return ProgressObserver(Console(file=io.StringIO(), force_terminal=True, width=100))


def progress_without() -> Observer:
    from rich.console import Console  # noqa: PLC0415 - the extra

    return ProgressObserver(Console(file=io.StringIO()))


def otel_without_sdk() -> Observer:
    from opentelemetry.metrics import NoOpMeterProvider  # noqa: PLC0415 - the extra
    from opentelemetry.trace import NoOpTracerProvider  # noqa: PLC0415 - the extra

    return OtelObserver(NoOpTracerProvider(), NoOpMeterProvider())


def otel_not_sampled() -> Observer:
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - the extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the extra
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: PLC0415 - the extra

    return OtelObserver(TracerProvider(sampler=ALWAYS_OFF), MeterProvider())


def observers() -> dict[str, tuple[Make | None, Limit | None]]:
    """The observers to time, and what each may add to an item; None where its extra is not installed."""
    rich, api, sdk = map(is_installed, ("rich", "opentelemetry-api", "opentelemetry-sdk"))
    return {
        "NoopObserver": (plain(NoopObserver), Limit(0.3)),
        "an empty MultiObserver": (plain(MultiObserver), Limit(0.3)),
        "LoguruObserver": (plain(LoguruObserver), None),
        "LoggingObserver": (plain(LoggingObserver), None),
        "TraceObserver": (lambda folder: TraceObserver(folder / "trace.json"), Limit(3)),
        "MetricsObserver": (plain(MetricsObserver), Limit(1.5)),
        "ProgressObserver, no terminal": (plain(progress_without) if rich else None, Limit(1)),
        "ProgressObserver, a terminal": (plain(progress_at_a_terminal) if rich else None, Limit(1)),
        "OtelObserver, no SDK": (plain(otel_without_sdk) if api else None, Limit(6)),
        "OtelObserver, nothing sampled": (plain(otel_not_sampled) if sdk else None, None),
        "RecordingObserver": (plain(RecordingObserver), None),
        "EventStream": (plain(EventStream), None),
    }


def log_as_users_do() -> None:
    """Give loguru one sink at its default level, which costs what a sink costs and writes nowhere."""
    from loguru import logger  # noqa: PLC0415 - as users have it: after ours

    logger.remove()
    logger.add(lambda _: None, level="DEBUG")


def ask_all(items: int, repeat: int) -> Iterator[list[Row]]:
    chosen = observers()
    contenders = [Contender("silent", partial(seconds, plain(NoopObserver), items), Role.OURS)]
    contenders += [
        Contender(name, None if make is None else partial(seconds, make, items), Role.OURS, limit)
        for name, (make, limit) in chosen.items()
    ]
    question = f"a. what an observer adds to an item, of {items:,} that do nothing"
    yield compare_added(question, contenders, items=items, repeat=repeat)
    default = Contender("LoguruObserver", partial(seconds, plain(LoguruObserver), items), Role.VARIANT, Limit(2.5))
    yield compare("b. a run with the default observer", [contenders[0], default], items=items, repeat=repeat)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=positive, default=20_000, help="items of a run")
    add_arguments(parser)
    arguments = parser.parse_args()
    log_as_users_do()
    return report(arguments, ask_all(arguments.items, arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())

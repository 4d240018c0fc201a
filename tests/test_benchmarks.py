"""What the benchmarks show: lines for contenders that fail, and a page that is made of what was measured."""

import importlib
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of `benchmarks/`, and forget it afterwards."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def fail():
    raise BaseExceptionGroup("wrapped", [GeneratorExit(), ValueError("no")])


def test_a_contender_that_fails_is_a_line_that_says_so_and_the_others_go_on(benchmark, capsys):
    measuring = benchmark("measuring")
    contenders = [
        measuring.Contender("ours", lambda: 1.0, measuring.Role.OURS),
        measuring.Contender("broken", fail, measuring.Role.PEER),
        measuring.Contender("absent", None, measuring.Role.PEER),
        measuring.Contender("peer", lambda: 2.0, measuring.Role.PEER),
    ]
    ours, broken, absent, peer = measuring.compare("a. this", contenders, items=1, repeat=3)
    assert (ours.value, peer.value, peer.ratio, peer.ratios) == (1e6, 2e6, 2.0, (2.0, 2.0, 2.0))
    assert (broken.value, broken.ratio, absent.value) == (None, None, None)
    assert broken.verdict.startswith("FAILED: BaseExceptionGroup: wrapped")
    assert absent.verdict == "not installed"


def test_a_contender_that_takes_too_long_is_ended(benchmark):
    measuring = benchmark("measuring")
    with pytest.raises(TimeoutError, match="took more than 0.05 s"):
        measuring.within(0.05, lambda: time.sleep(30))


def test_ctrl_c_ends_the_benchmark_also_out_of_a_nursery(benchmark):
    measuring = benchmark("measuring")

    def interrupted():
        raise BaseExceptionGroup("wrapped", [KeyboardInterrupt()])

    contenders = [measuring.Contender("ours", interrupted, measuring.Role.OURS)]
    with pytest.raises(BaseExceptionGroup):
        measuring.compare("a. this", contenders, items=1, repeat=1)


def test_a_limit_is_held_against_the_best_round(benchmark):
    measuring = benchmark("measuring")
    ours, floor = iter([3.0, 2.0]), iter([1.0, 1.0])
    contenders = [
        measuring.Contender("ours", lambda: next(ours), measuring.Role.OURS),
        measuring.Contender("floor", lambda: next(floor), measuring.Role.FLOOR, measuring.Limit(2)),
    ]
    row = measuring.compare("a. this", contenders, items=1, repeat=2)[1]
    assert (row.ratio, row.ratios, row.verdict) == (2.0, (3.0, 2.0), "ok")


def test_the_page_says_what_was_measured(benchmark):
    data = benchmark("gathered").Gathered.read(FOLDER / "benchmarks.json")
    charts = {chart.stem for chart in FOLDER.glob("*.svg")}
    assert PAGE.read_text() == benchmark("page").render(data, charts)


def test_every_chart_is_there_as_svg_and_as_png():
    assert {chart.stem for chart in FOLDER.glob("*.svg")} == {chart.stem for chart in FOLDER.glob("*.png")} != set()

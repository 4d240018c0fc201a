"""Draws the charts of `docs/benchmarks/` from what `full.py` gathered: each as SVG and PNG, on a white card.

Three kinds: dots on a logarithmic axis for how long others take beside trioflow, bars for what something costs by
itself, and lines for what depends on a size. Dots and bars are medians, and the thin lines their spread.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from textwrap import fill

import matplotlib as mpl
from gathered import Gathered, Row, relative, title_of

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

OURS, FLOOR, PEER, VARIANT = "#0a6ebd", "#7a7a7a", "#c2571a", "#2b86c9"
BY_ROLE = {"": OURS, "floor": FLOOR, "peer": PEER, "variant": VARIANT}
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
LINES = {
    "process_parallel": OURS,
    "trioflow": OURS,
    "State (a dict)": OURS,
    "open_parallel, nothing kept": "#5fb0ea",
    "bare loop": FLOOR,
    "bare nursery": FLOOR,
}
OTHER_LINES = ("#c2571a", "#2f8f4e", "#8a4fbf", "#b8860b", "#c2185b", "#4d6a2d")
MARKERS = "osD^vPX*"
WIDTH = 8.2
LINE_HEIGHT = 0.235
DPI = 110


def draw_all(data: Gathered, folder: Path) -> list[str]:
    """Draw each chart for which there is something to draw, and return their names."""
    mpl.rcParams.update({"svg.hashsalt": "trioflow", "font.size": 9})
    mpl.rcParams.update({"axes.titlesize": 9.5, "axes.titleweight": "bold"})
    drawn = []
    for name, draw in CHARTS.items():
        figure = draw(data)
        if figure is None:
            continue
        figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", facecolor="white", dpi=DPI, metadata={"Software": None})
        plt.close(figure)
        drawn.append(name)
    return drawn


# Dots: how long others take beside ours.


def dots(data: Gathered, *chosen: tuple[str, str]) -> Figure | None:
    """Draw one panel for each question of a script whose title has what is asked for in it."""
    return dot_panels(
        [
            (title_of(question), rows)
            for script, part in chosen
            for question, rows in data.questions(script).items()
            if part in question and any(map(relative, rows))
        ]
    )


def summary(data: Gathered) -> Figure | None:
    """Draw the peers and floors of one question of each kind."""
    panels = []
    for title, (script, part) in SUMMARY.items():
        for question, rows in data.questions(script).items():
            if part in question and any(map(relative, rows)):
                panels.append((title, [row for row in rows if row["role"] != "variant"]))
                break
    return dot_panels(panels)


def dot_panels(panels: Sequence[tuple[str, Sequence[Row]]]) -> Figure | None:
    # What is derived from other lines has a value and no ratio, and no place on this axis.
    panels = [
        (title, [row for row in rows if row is rows[0] or relative(row) or row["value"] is None])
        for title, rows in panels
    ]
    if not panels:
        return None
    heights = [len(rows) + 2.2 for _, rows in panels]
    figure, axes = plt.subplots(
        len(panels),
        squeeze=False,
        sharex=True,
        figsize=(WIDTH, LINE_HEIGHT * sum(heights) + 0.6),
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (title, rows) in zip(axes[:, 0], panels, strict=True):
        dot_panel(axis, title, rows)
    low, high = axes[0, 0].get_xlim()
    low, high = low / 1.3, high * 2.2  # room for the numbers
    axes[0, 0].set_xlim(low, high)
    axes[0, 0].xaxis.set_major_locator(ticks(low, high))
    axes[-1, 0].set_xlabel("times as long as trioflow, logarithmic; left of 1 is faster")
    return figure


def dot_panel(axis: Axes, title: str, rows: Sequence[Row]) -> None:
    axis.set_title(fill(title, 72), loc="left")
    axis.set_xscale("log")
    axis.axvline(1, color=OURS, linewidth=1.2, zorder=1)
    rows = sorted(rows, key=lambda row: (bool(row["role"]), median(relative(row) or [float("inf")])))
    for place, row in enumerate(rows):
        ratios = relative(row) or ([1.0] if place == 0 and row["value"] is not None else [])
        if not ratios:
            axis.annotate(said(row), (1, place), (5, 0), textcoords="offset points", va="center", color=FLOOR)
            continue
        color = BY_ROLE[row["role"]]
        middle = median(ratios)
        axis.plot([min(ratios), max(ratios)], [place, place], color=color, linewidth=1.4, alpha=0.6)
        axis.plot(middle, place, "o", color=color, markersize=6)
        text = f"{number(middle)}×" if row["ratio"] is not None else measured(row)
        end = max(ratios)
        place_text = {"textcoords": "offset points", "va": "center", "bbox": BEHIND}
        axis.annotate(text, (end, place), (8, 0), color=color, **place_text)
    name_lines(axis, rows)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelbottom=False)
    if axis.get_subplotspec().is_last_row():
        axis.tick_params(labelbottom=True)


def name_lines(axis: Axes, rows: Sequence[Row]) -> None:
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color("black" if row["role"] else OURS)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


# Bars: what something costs by itself.


def bars(data: Gathered, *chosen: tuple[str, str], logarithmic: bool = False) -> Figure | None:
    panels = [
        (question, in_one_unit(rows[rows[0]["role"] == "floor" :]))  # what the others are beside is not drawn
        for script, part in chosen
        for question, rows in data.questions(script).items()
        if part in question and any(row["value"] is not None for row in rows)
    ]
    if not panels:
        return None
    heights = [len(rows) + 2.8 for _, rows in panels]
    figure, axes = plt.subplots(
        len(panels),
        squeeze=False,
        figsize=(WIDTH, LINE_HEIGHT * sum(heights) + 0.3),
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (question, rows) in zip(axes[:, 0], panels, strict=True):
        bar_panel(axis, question, rows, logarithmic=logarithmic)
    return figure


def in_one_unit(rows: Sequence[Row]) -> Sequence[Row]:
    return [row for row in rows if row["unit"] == rows[0]["unit"]]


def bar_panel(axis: Axes, question: str, rows: Sequence[Row], *, logarithmic: bool) -> None:
    axis.set_title(title_of(question), loc="left")
    for place, row in enumerate(rows):
        if row["value"] is None:
            axis.annotate(said(row), (0, place), (5, 0), textcoords="offset points", va="center", color=FLOOR)
            continue
        rounds = row["rounds"] or [row["value"]]
        middle = median(rounds)
        axis.barh(place, middle, color=BY_ROLE[row["role"]], height=0.62, alpha=0.85)
        axis.plot([min(rounds), max(rounds)], [place, place], color="black", linewidth=1, alpha=0.7)
        end = max(*rounds, middle, 0.0)
        axis.annotate(measured(row), (end, place), (5, 0), textcoords="offset points", va="center")
    name_lines(axis, rows)
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(short))
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * 4 if logarithmic else high + 0.18 * (high - low))
    unit = next(row["unit"] for row in rows)
    axis.set_xlabel(f"{unit}, logarithmic" if logarithmic else unit)


# Lines: what depends on a size.


def lines(
    data: Gathered, script: str, panels: dict[str, str], size: str, what: str, *, share: bool = True
) -> Figure | None:
    """Draw one panel for each letter of a script's questions, over the sizes that were asked for."""
    found = {letter: data.series(script, letter) for letter in panels}
    found = {letter: series for letter, series in found.items() if series}
    if not found:
        return None
    figure, axes = plt.subplots(
        1, len(found), squeeze=False, sharey=share, figsize=(WIDTH, 3.9), layout="constrained"
    )
    names = list(dict.fromkeys(name for series in found.values() for name in series))
    others = iter(OTHER_LINES)
    colors = {name: LINES.get(name) or next(others, "black") for name in names}
    for axis, (letter, series) in zip(axes[0], found.items(), strict=True):
        for name, rows in series.items():
            line_of(axis, name, rows, colors[name], MARKERS[names.index(name) % len(MARKERS)])
        title, _, label = panels[letter].partition("|")
        axis.set_title(title, loc="left")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel(label or size)
        axis.set_xticks(sorted({row["x"] for rows in series.values() for row in rows}))
        axis.yaxis.set_major_locator(ticks(*axis.get_ylim()))
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(FuncFormatter(short))
            each.set_minor_formatter(NullFormatter())
        axis.grid(color="#dddddd", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel(what)
    handles = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def line_of(axis: Axes, name: str, rows: Sequence[Row], color: str, marker: str) -> None:
    rounds = [row["rounds"] or [row["value"]] for row in rows]
    sizes = [row["x"] for row in rows]
    width = 2.2 if color == OURS else 1.3
    axis.plot(
        sizes, list(map(median, rounds)), marker=marker, markersize=4, color=color, linewidth=width, label=name
    )
    axis.fill_between(sizes, list(map(min, rounds)), list(map(max, rounds)), color=color, alpha=0.12, linewidth=0)


def ticks(low: float, high: float) -> LogLocator:
    """Return where a logarithmic axis is numbered: at powers of ten, and between them where those are few."""
    return LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))


# Texts.


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def measured(row: Row) -> str:
    return f"{number(median(row['rounds'] or [row['value']]))} {row['unit'].removesuffix('/item')}"


def said(row: Row) -> str:
    return "failed" if row["failed"] else row["skipped"]


def short(value: float, _: object = None) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


SUMMARY = {
    "an item of a fan-out, whose call yields once": ("engine", "checkpoint of its own"),
    "a result of a stream, whose call yields once": ("streams", "as they complete"),
    "a step of a graph": ("graph", "a. "),
    "a step of a graph that is kept in SQLite": ("durable", "a step, on the disk"),
    "a run of a service on SQLite": ("service", "on SQLite: a run"),
}
CHARTS = {
    "summary": summary,
    "overhead": lambda data: dots(data, ("engine", "a. ")),
    "waits": lambda data: lines(
        data,
        "io",
        {"a": "calls of 1 ms", "b": "calls of 10 ms", "c": "calls of 50 ms"},
        "calls at a time",
        "times as long as the waits alone",
    ),
    "streams": lambda data: dots(data, ("streams", "")),
    "growth": lambda data: lines(
        data,
        "growth",
        {"a": "16 workers|items", "b": "10,000 items|workers"},
        "items",
        "µs an item",
    ),
    "memory": lambda data: lines(
        data, "growth", {"c": "peak memory of a process"}, "items", "MiB"
    ),
    "options": lambda data: dots(data, ("engine", "e. ")),
    "policies": lambda data: bars(data, ("policies", "a. ")),
    "observers": lambda data: bars(data, ("observers", "a. ")),
    "graph": lambda data: dots(data, ("graph", "a. "), ("graph", "b. ")),
    "branches": lambda data: lines(
        data, "graph", {"d": "branches that do nothing, and their join"}, "branches", "µs a branch"
    ),
    "checkpoints": lambda data: dots(data, ("durable", "a. "), ("durable", "d. "), ("durable", "b. ")),
    "service": lambda data: dots(data, ("service", "a. ")),
    "hub": lambda data: dots(data, ("hub", "a. ")),
    "executors": lambda data: bars(data, ("executors", "a. "), logarithmic=True),
    "state": lambda data: lines(
        data, "state", {"a": "setting one name", "b": "reading one name"}, "names in the state", "µs"
    ),
    "import": lambda data: bars(data, ("import", "a. ")),
    "instructions": lambda data: dots(data, ("instructions", "")),
}

"""Writes `docs/reference/benchmarks.md` from what `full.py` gathered; nothing on the page is written by hand."""

from collections.abc import Collection, Iterator, Sequence
from statistics import median
from textwrap import fill

from gathered import Gathered, Row, relative, title_of

WIDTH = 115
CHARTS = {
    "engine": {"a": "overhead", "e": "options"},
    "instructions": {"a": "instructions"},
    "io": {"a": "waits"},
    "streams": {"a": "streams"},
    "growth": {"a": "growth", "c": "memory"},
    "policies": {"a": "policies"},
    "observers": {"a": "observers"},
    "graph": {"a": "graph", "d": "branches"},
    "state": {"a": "state"},
    "durable": {"a": "checkpoints"},
    "service": {"a": "service"},
    "hub": {"a": "hub"},
    "executors": {"a": "executors"},
    "import": {"a": "import"},
}
"""By script: which chart stands before the question of which letter."""
TITLES = {
    "engine": "A fan-out",
    "instructions": "Instructions of an item",
    "io": "Calls that wait",
    "streams": "Streams",
    "growth": "Growth",
    "cliffs": "Cliffs",
    "policies": "Policies",
    "observers": "Observers",
    "graph": "Chains and graphs",
    "state": "States",
    "durable": "Checkpoints",
    "service": "A service",
    "hub": "A hub",
    "executors": "Executors",
    "import": "Import",
}
HEAD = """\
# Benchmarks

<!-- Made by benchmarks/full.py of docs/benchmarks/benchmarks.json. What is changed here by hand is lost. -->

What does trioflow cost beside what one would use instead, and beside the least that is possible? Every figure on
this page, with every round of it, is in [benchmarks.json](../benchmarks/benchmarks.json). One command measures all
of it anew and writes this page:

```console
nox -s bench -- --full
```

![How many times as long as trioflow others take, from fan-outs to services](../benchmarks/summary.svg)

## How to read it

- **Ratios first.** *× ours* is how many times as long as trioflow a contender takes: 2 is twice as long, 0.5
  half as long. Ratios carry over to other machines; microseconds do not.
- Contenders take turns in one process, round by round, so that whatever else the machine does hits all alike. A
  ratio is that of two times in one round; the figure is the median of {rounds} rounds, and the range behind it is
  the least and the most.
- A *floor* is the least that does the work at all, without any account. A *peer* is what one would use instead.
  A *variant* is trioflow with one thing changed.
- A *limit* is what the project holds itself to (`nox -s bench -- --check`): the best round must keep to it,
  which has the least of other programs in it. It is on trioflow's time over a floor's, on a contender's over
  trioflow's, or on the value itself.
- What is not installed, fails or takes too long is a line that says so.
"""


def render(data: Gathered, charts: Collection[str]) -> str:
    parts = [HEAD.format(rounds=data.facts["rounds"]), "\n".join(machine(data))]
    parts += ["\n".join(section(data, name, charts)) for name in data.scripts]
    return "\n".join(parts).rstrip() + "\n"


def machine(data: Gathered) -> Iterator[str]:
    facts = data.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    minutes = sum(script["seconds"] for script in data.scripts.values()) / 60
    yield "## The machine\n"
    yield "| | |\n|---|---|"
    yield f"| measured on | {facts['date']}, commit {facts['commit'] or 'unknown'}, in {minutes:.0f} minutes |"
    yield f"| processor | {facts['processor']}, {facts['cores']} cores |"
    yield f"| memory | {facts['memory']} |"
    yield f"| system | {facts['system']}; load when it began {facts['load']} |"
    yield f"| Python | {facts['python']} |"
    yield f"| beside it | {versions} |\n"


def section(data: Gathered, name: str, charts: Collection[str]) -> Iterator[str]:
    script = data.scripts[name]
    yield f"## {TITLES.get(name, name)}\n"
    yield fill(f"`benchmarks/bench_{name}.py`: {script['title']}", WIDTH) + "\n"
    if script["problem"]:
        yield f"**Not complete:** {script['problem']}. What it had measured by then is shown.\n"
    questions = data.questions(name)
    for letter in dict.fromkeys(question[0] for question in questions):
        chart = CHARTS.get(name, {}).get(letter)
        about = script["about"].get(letter)
        if about:
            yield fill(f"**Measures** {about['measures']} **Fair:** {about['fair']}", WIDTH) + "\n"
        if chart in charts:
            alt = f"{TITLES.get(name, name)}: {title_of(next(q for q in questions if q[0] == letter))}"
            yield f"![{alt}](../benchmarks/{chart}.svg)\n"
        asked = {question: rows for question, rows in questions.items() if question[0] == letter}
        if len(asked) > 1 and all(row["x"] is not None for rows in asked.values() for row in rows):
            yield from by_size(asked)
        else:
            for question, rows in asked.items():
                yield from table(question, rows)


def table(question: str, rows: Sequence[Row]) -> Iterator[str]:
    """One line a contender: ratio, value, spread, limit; columns that nobody fills are left out."""
    middle = "median" if any(len(row["rounds"]) > 1 for row in rows) else "value"
    head = [title_of(question), "", "× ours", middle, "all rounds", "limit"]
    lines = [[row["name"], row["role"], times(row), value(row), spread(row), limit(row)] for row in rows]
    used = [column for column in range(len(head)) if column == 0 or any(line[column] for line in lines)]
    yield "| " + " | ".join(head[column] for column in used) + " |"
    yield "|" + "".join("---|" if column < 2 else "---:|" for column in used)
    for line in lines:
        yield "| " + " | ".join(line[column] for column in used) + " |"
    yield ""


def by_size(asked: dict[str, list[Row]]) -> Iterator[str]:
    """One line a contender and one column a size: value and ratio."""
    everything = [row for rows in asked.values() for row in rows]
    sizes = list(dict.fromkeys(row["x"] for row in everything))
    first, *_, last = asked
    said = f"From “{title_of(first)}” to “{title_of(last)}”; {everything[0]['unit']}, and × ours:"
    yield fill(said, WIDTH) + "\n"
    yield "| | " + " | ".join(f"{size:,.0f}" for size in sizes) + " |"
    yield "|---|" + "---:|" * len(sizes)
    for name in dict.fromkeys(row["name"] for row in everything):
        cells = {row["x"]: cell(row) for row in everything if row["name"] == name}
        yield f"| {name} | " + " | ".join(cells.get(size, "") for size in sizes) + " |"
    yield ""


# Cells.


def cell(row: Row) -> str:
    if row["value"] is None:
        return value(row)
    ratios = relative(row)
    behind = f", {number(median(ratios))}×" if ratios else ""
    return number(median(row["rounds"] or [row["value"]])) + behind


def times(row: Row) -> str:
    ratios = relative(row)
    if not ratios:
        return ""
    around = f" ({number(min(ratios))}–{number(max(ratios))})" if len(ratios) > 1 else ""
    return f"**{number(median(ratios))}**{around}"


def value(row: Row) -> str:
    if row["failed"]:
        return f"failed: {row['failed'].replace('|', ' ')}"
    if row["value"] is None:
        return row["skipped"]
    return f"{number(median(row['rounds'] or [row['value']]))} {row['unit']}"


def spread(row: Row) -> str:
    rounds = row["rounds"]
    return f"{number(min(rounds))}–{number(max(rounds))}" if len(rounds) > 1 else ""


def limit(row: Row) -> str:
    if not row["limit"]:
        return ""
    bound = f"{'≥' if row['limit']['at_least'] else '≤'} {row['limit']['bound']:g}"
    held = row["value"] if row["ratio"] is None else row["ratio"]
    if held is None:
        return bound
    return f"{bound}: {number(held)}, {'missed' if row['verdict'] == 'MISSED' else 'ok'}"


def number(size: float) -> str:
    if abs(size) >= 100 or size == 0:
        return f"{size:,.0f}"
    if abs(size) >= 10:
        return f"{size:.1f}"
    return f"{size:.2f}" if abs(size) >= 0.1 else f"{size:.2g}"

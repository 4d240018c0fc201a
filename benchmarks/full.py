"""Asks every question in full, and writes the page of benchmarks with its charts.

    python benchmarks/full.py [--repeat 5] [--only engine,io] [--redraw]

Each script of `benchmarks/` runs in a process of its own, with its contenders taking turns in it, and tells its
rows as JSON; one that fails or takes too long is noted, and what it had told is kept. All of it goes into
`docs/benchmarks/benchmarks.json`, from which the charts beside it and `docs/reference/benchmarks.md` are made:
`--redraw` does only that. `--only` replaces the scripts that it names in what is there.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import page
from gathered import Gathered
from measuring import environment, is_installed, positive

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
DATA = FOLDER / "benchmarks.json"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
LONGEST = 400
"""Seconds that a script may take."""
SCRIPTS: dict[str, list[str]] = {
    "engine": [],
    "instructions": [],
    "io": [],
    "streams": [],
    "growth": [],
    "cliffs": [],
    "policies": ["--seconds", "5"],
    "observers": [],
    "graph": [],
    "state": [],
    "durable": [],
    "service": [],
    "hub": [],
    "executors": [],
    "import": [],
}
"""The scripts in the order of the page, each with its own arguments."""


def run(name: str, repeat: int) -> dict[str, Any]:
    """Run one script in full, and return what it told and why it ended early, if it did."""
    script = ROOT / "benchmarks" / f"bench_{name}.py"
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        command = [sys.executable, str(script), "--full", "--repeat", str(repeat), "--json", str(told)]
        problem = waited_for([*command, *SCRIPTS[name]])
        answers = json.loads(told.read_text()) if told.exists() else {"about": {}, "rows": []}
    title = script.read_text().partition('"""')[2].partition("\n")[0]
    return {
        "title": title,
        "seconds": round(perf_counter() - start, 1),
        "problem": problem,
        "about": answers["about"],
        "rows": [rounded(row) for row in answers["rows"]],
    }


def waited_for(command: list[str]) -> str | None:
    """Run a script, and return what was wrong with it. One that is late is interrupted, to end what it began."""
    with subprocess.Popen(command) as process:
        try:
            status = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LONGEST / 10)
            except subprocess.TimeoutExpired:
                process.kill()
            return f"the script took more than {LONGEST} s"
    return f"the script ended with status {status}" if status else None


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Keep as many digits as a measurement has."""

    def few(value: Any) -> Any:
        if isinstance(value, list):
            return [few(each) for each in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return {name: few(value) for name, value in row.items()}


def facts() -> dict[str, Any]:
    """Return what a reader has to know of the machine."""
    told = environment()
    versions = {name: told[name] for name in told if name not in ("python", "machine", "cpus")}
    for name, command in (("Valgrind", "valgrind"), ("PostgreSQL", "psql")):
        found = re.search(r"[\d.]+", first_line(command, "--version") or "")
        versions[name] = found and found[0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": first_line("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"),
        "python": told["python"],
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": {name: version for name, version in versions.items() if version},
    }


def processor() -> str:
    known = Path("/proc/cpuinfo")
    for line in known.read_text().splitlines() if known.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0].strip()


def gather(names: list[str], repeat: int) -> None:
    """Run scripts, and put what they tell in the place of what they had told before."""
    FOLDER.mkdir(exist_ok=True)
    told = {"facts": facts() | {"rounds": repeat}, "scripts": {}}
    known = json.loads(DATA.read_text())["scripts"] if DATA.exists() else {}
    known = {name: script for name, script in known.items() if name not in names}
    for name in names:
        print(f"\n=== {name}", flush=True)
        known[name] = run(name, repeat)
        print(f"\n{name} took {known[name]['seconds']:.0f} s", known[name]["problem"] or "", flush=True)
        told["scripts"] = {name: known[name] for name in SCRIPTS if name in known}
        DATA.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def write() -> None:
    """Make the charts, where matplotlib is there, and the page."""
    data = Gathered.read(DATA)
    if is_installed("matplotlib"):
        import charts  # noqa: PLC0415 - optional

        for old in [*FOLDER.glob("*.svg"), *FOLDER.glob("*.png")]:
            old.unlink()
        print(f"drew {', '.join(charts.draw_all(data, FOLDER))}")
    else:
        print("matplotlib is not installed: the charts are not drawn anew")
    PAGE.write_text(page.render(data, {chart.stem for chart in FOLDER.glob("*.svg")}))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=positive, default=5, help="rounds")
    parser.add_argument("--only", default=",".join(SCRIPTS), help="the scripts to run")
    parser.add_argument("--redraw", action="store_true", help="run none, and make charts and page anew")
    parser.add_argument("--full", action="store_true", help="the default, as `nox -s bench -- --full` says it")
    arguments = parser.parse_args()
    start = perf_counter()
    if not arguments.redraw:
        unknown = set(arguments.only.split(",")) - set(SCRIPTS)
        if unknown:
            parser.error(f"no such scripts: {', '.join(sorted(unknown))}")
        gather(arguments.only.split(","), arguments.repeat)
    write()
    print(f"took {(perf_counter() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

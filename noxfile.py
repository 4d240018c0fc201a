"""The project's sessions. `nox -l` lists them; each sets up what it needs from a fresh clone.

Sessions on several Pythons run on those that are found and skip the others, saying so.
"""

import os
import re
import shutil
import tarfile
from pathlib import Path
from zipfile import ZipFile

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "lint", "types", "docs", "demo"]

PYTHONS = ["3.11", "3.12", "3.13"]
PYPROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = PYPROJECT["dependency-groups"]

QUICK_NEEDS = {
    "httpx", "hypothesis", "pydantic", "pytest", "pytest-timeout", "pytest-trio", "pytest-xdist", "PyYAML", "sybil"
}  # fmt: skip
"""What the quick part of the suite needs of the group `tests`; tests of other libraries are skipped."""

QUICK = ("pytest", "-q", "-n", "2", "--dist", "worksteal", "-m", "not slow", "-p", "no:cacheprovider", "-r", "fE")
"""Runs the tests that are named after it, without those that take more than a second."""


def install(session: nox.Session, *groups: str) -> None:
    """Install the project as users get it, and what the session needs beside it."""
    needed = [requirement for group in groups for requirement in GROUPS[group]]
    session.install(".", *needed)


@nox.session
def demo(session: nox.Session) -> None:
    """Fan two hundred real HTTP calls out, and show the account at the end."""
    install(session, "demo")
    session.run("python", "examples/fan_out.py", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite in two processes, on the lowest Python with branch coverage."""
    install(session, "tests", "demo")
    coverage = ["--cov"] if session.python == PYTHONS[0] else []
    session.run("pytest", "-n", "2", "--dist", "worksteal", *coverage, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, check them, and run tests of the sdist against the wheel, installed anew."""
    session.install(*GROUPS["release"])
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    built, fresh = folder / "dist", folder / "fresh"
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    (sdist,), (packed,) = built.glob("*.tar.gz"), built.glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(packed))
    if odd := what_is_odd_in(packed):
        session.error(f"{packed.name}: {odd}")

    session.run("virtualenv", "--quiet", str(fresh))
    python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
    # With nothing but its own dependencies first: what a user gets.
    session.run(python, "-m", "pip", "install", "--quiet", str(packed), external=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(unpacked / "trioflow")  # so that no test finds it there
    with session.chdir(unpacked):
        session.run(python, "-W", "error", "-c", FIRST_RUN, external=True)
        extras = f"{packed}[cli,ui,yaml]"
        session.run(python, "-m", "pip", "install", "--quiet", extras, *quick_needs(), external=True)
        rooms = ("workflows", "graph", "ui/test_page.py", "test_cli.py", "test_errors.py", "test_house.py")
        session.run(python, "-m", *QUICK, *(f"tests/{room}" for room in rooms), external=True)


FIRST_RUN = """
import trio, trioflow
from trioflow.checkpoint.sqlite import SqliteStore

async def work(item):
    await trio.sleep(0)
    if trioflow.current_run().attempt == 1:
        raise ConnectionError("refused")
    return item

async def main():
    config = trioflow.ParallelConfig(retry=trioflow.RetryConfig(initial_delay=0.001))
    async with SqliteStore("first.db") as store:
        async with trioflow.open_parallel(range(3), work, config=config, store=store, run_id="first") as run:
            await run.progress.wait_value(lambda progress: progress.done == 3)
    print(trioflow.__version__, run.result())

trio.run(main)
"""
"""Needs each of the core's dependencies, and nothing else."""


def what_is_odd_in(wheel: Path) -> str | None:
    """Say what `wheel` lacks, or has too much: it is to have the package as it stands here, and the licence."""
    files = {path.as_posix() for path in Path("trioflow").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    must = {"trioflow/py.typed", *(f"trioflow/ui/page.{suffix}" for suffix in ("css", "html", "js"))}
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    inside = {name for name in packed if name.startswith("trioflow/")}
    if wrong := sorted((files | must) ^ inside):
        return f"is not the package as it stands here: {', '.join(wrong)}"
    beside = {re.sub(r"^trioflow-[^/]*[.]dist-info/", "", name) for name in packed - inside}
    expected = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    return None if beside == expected else f"has beside the package: {', '.join(sorted(beside))}"


def quick_needs() -> list[str]:
    """Return what `QUICK_NEEDS` names, with the versions that the group asks for."""
    wanted = [needed for needed in GROUPS["tests"] if re.match(r"[\w-]+", needed)[0] in QUICK_NEEDS]
    if len(wanted) != len(QUICK_NEEDS):
        raise LookupError(f"the group `tests` has only {wanted} of {QUICK_NEEDS}")
    return wanted


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the quick tests with the lowest versions of the dependencies that pyproject.toml allows."""
    pins = [re.sub(r"^([\w-]+)>=([\d.]+)$", r"\1==\2", needed) for needed in PYPROJECT["project"]["dependencies"]]
    session.install(".", *pins, *quick_needs())
    rooms = ("workflows", "graph", "hub", "policies", "checkpoint", "config", "runtime")
    session.run(*QUICK, *(f"tests/{room}" for room in rooms))


@nox.session
def profile(session: nox.Session) -> None:
    """Show where the time of a benchmark goes, of another than the fan-outs' by `-- benchmarks/... --repeat 1`."""
    install(session, "bench", "tests", "profile")
    script = session.posargs or ["benchmarks/bench_observers.py", "--repeat", "1"]
    recorded = str(Path(session.create_tmp()).resolve() / "recorded.pyisession")
    session.run("pyinstrument", "--interval", "0.0005", "--renderer", "pyisession", "--outfile", recorded, *script)
    shown = ("pyinstrument", "--load", recorded, "--show", "*/trioflow/*")
    session.run(*shown, "--outfile", "profile.html")
    session.run(*shown, "--no-color", "--no-unicode")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff), the use of Trio (flake8-async) and the layers (import-linter)."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    # Whether public coroutines are checkpoints is tested; private ones need not be (ASYNC910 to ASYNC913).
    # Nodes are async by contract, also where they have nothing to await (ASYNC124).
    started = "--startable-in-context-manager=serve,serve_page"
    session.run("flake8", "--select=ASYNC", "--extend-ignore=ASYNC91,ASYNC124", started, "trioflow", "examples")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, and that the public interface is fully typed."""
    install(session, "types", "demo")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "trioflow", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every code block in README and docs, build the site, and check its links and its search."""
    install(session, "docs", "tests", "demo")
    session.run("pytest", "README.md", "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run("python", "docs/check_site.py", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the engine against its peers, as ratios in one run; with `--full` all of it, and the page of it."""
    install(session, "bench", "tests")
    if "--full" in session.posargs:
        session.run("python", "benchmarks/full.py", *session.posargs)
        return
    questions = "engine cliffs policies graph state durable hub executors observers service import"
    for question in questions.split():
        session.run("python", f"benchmarks/bench_{question}.py", *session.posargs)
    session.run("python", "benchmarks/check_whatif.py", "--check")

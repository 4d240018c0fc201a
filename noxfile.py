"""The project's sessions. `nox -l` lists them; each sets up what it needs from a fresh clone.

Sessions on several Pythons run on those that are found and skip the others, saying so.
"""

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "lint", "types", "docs", "demo"]

PYTHONS = ["3.11", "3.12", "3.13"]
GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]


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
    """Run the test suite with branch coverage, in two processes."""
    install(session, "tests", "demo")
    session.run("pytest", "-n", "2", "--dist", "worksteal", "--cov", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff), the use of Trio (flake8-async) and the layers (import-linter)."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    # Whether public coroutines are checkpoints is tested; private ones need not be (ASYNC910 to ASYNC913).
    # Nodes are async by contract, also where they have nothing to await (ASYNC124).
    started = "--startable-in-context-manager=_watch,serve,serve_page"
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
    """Build the documentation, warnings being errors, and run every code block in README and docs."""
    install(session, "docs", "tests", "demo")
    session.run("pytest", "README.md", "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")


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

"""The recipes are scripts, not a package: this is how their tests find them, and run them as their readers do.

Time is real here, since other processes and sockets do not know a test's clock; so delays are milliseconds.
"""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import trioflow

RECIPES = Path(__file__).parents[2] / "examples" / "cookbook"
LIBRARY = Path(trioflow.__file__).parents[1]

sys.path.insert(0, str(RECIPES))


@pytest.fixture
def start_recipe():
    """What starts a recipe as a script, warnings being errors, and gives what `trio.run_process` does."""

    def start(name, *arguments, **options):
        command = [sys.executable, "-W", "error", str(RECIPES / name), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}
        return partial(trio.run_process, command, env=environment, check=False, **options)

    return start


@pytest.fixture
def run_recipe(start_recipe):
    """What runs a recipe as a script, and returns what it printed."""

    async def run(name, *arguments):
        with trio.fail_after(50):
            done = await start_recipe(name, *arguments, capture_stdout=True, capture_stderr=True)()
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        return done.stdout.decode()

    return run


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"

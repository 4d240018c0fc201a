"""The examples are scripts, not a package: this is how their tests find them."""

import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def tracebacks():
    """What finds the tracebacks of a program in its output.

    Where a Ctrl-C comes while a module is read for the first time, Python itself may say that it ignored something.
    """
    ignored = re.compile(rb"Exception ignored [^\n]*\n(?:Traceback[^\n]*\n(?: [^\n]*\n)*[^\n]*\n?)?")
    return lambda output: re.findall(rb"Traceback[^\n]*", ignored.sub(b"", output))

"""The examples are scripts, not a package: this is how their tests find them."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


sys.path.insert(0, str(EXAMPLES))

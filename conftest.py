"""Runs the Python blocks of README and docs: `pytest README.md docs`.

Each block of README runs by itself. The blocks of another page build on one another.
"""

import os
import sys
from pathlib import Path

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

# The tutorial builds the program that stands in examples/briefing.py, and imports from it.
sys.path.append(str(Path(__file__).parent / "examples"))

# Some blocks call a server of their own on this machine; a proxy that the environment names cannot reach it.
os.environ["NO_PROXY"] = "127.0.0.1"


def _run_alone(example: Example) -> str | None:
    example.namespace.clear()
    return PythonEvaluator()(example)


pytest_collect_file = (
    Sybil(parsers=[CodeBlockParser("python", _run_alone)], patterns=["README.md"])
    + Sybil(parsers=[PythonCodeBlockParser()], patterns=["docs/*.md", "docs/**/*.md"])
).pytest()

"""The tutorial builds examples/briefing.py: what its pages show is what stands there."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "tutorial" / f"{name}.md" for name in ("fan-out", "limits", "stream", "graph", "durable", "page", "service")]


def definitions(source):
    """The functions and constants of a program, as text without docstrings."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node):
                del node.body[0]
            found[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign) and node.targets[0].id.isupper():
            found[node.targets[0].id] = ast.unparse(node)
    return found


def shown():
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            for name, text in definitions(block).items():
                yield page.name, name, text


def test_the_pages_show_the_program_as_it_stands():
    program = definitions((ROOT / "examples" / "briefing.py").read_text())
    common = [(page, name, text) for page, name, text in shown() if name in program and name != "main"]
    assert [(page, name) for page, name, text in common if text != program[name]] == []
    missing = set(program) - {name for _, name, _ in common} - {"main", "show"}
    assert not missing


def test_each_page_leads_to_the_next():
    for page, next_page in pairwise(PAGES):
        assert f"({next_page.name})" in page.read_text(), page.name

"""README as its reader meets it: each block is a program, prints what stands below it, and no link leads nowhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("openai", "h11"):
    pytest.importorskip(package, reason="the first program of README needs openai and h11")

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_each_program_runs_by_itself_and_prints_what_stands_below_it(number, tmp_path):
    program, printed = PROGRAMS[number]
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "program.py"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if printed:
        assert done.stdout == printed


def test_the_programs_are_there_and_the_first_is_short():
    assert len(PROGRAMS) >= 2
    first, printed = PROGRAMS[0]
    assert printed
    assert len([line for line in first.splitlines() if line.strip()]) <= 15


def test_the_two_commands_stand_as_they_are_typed():
    assert "pip install nox && nox -s demo " in README
    assert "pip install nox && nox -s tests " in README


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_no_link_of_the_clone_leads_nowhere(name):
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text())
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    missing = []
    for target in local:
        path, _, anchor = target.partition("#")
        file = ROOT / (path or name)
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert missing == []


def anchors(file):
    """The anchors of a Markdown file's headings, as GitHub and Sphinx make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

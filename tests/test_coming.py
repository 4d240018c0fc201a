"""The pages "Coming from ...": both programs of each print what the page says; a peer that is missing is a skip."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "coming"
OURS = re.compile(r"```(?:python\n(?P<code>.*?)|text\n(?P<shown>.*?))```", re.DOTALL)
THEIRS = re.compile(r"```\{literalinclude\} (peers/\w+\.py)\n.*?\n```\n\n(?:```text\n(.*?)```)?", re.DOTALL)

PAGES = sorted(page.name for page in FOLDER.glob("*.md") if page.name != "index.md")
NEEDS = {"fan_out_asyncio": None, "fan_out_aiometer": "aiometer", "fan_out_anyio": "anyio", "graph_langgraph": "langgraph", "review_dbos": "dbos"}
"""What the programs of the peers import. Temporal's needs a service as well, and Go's a compiler."""


def printed_by(*arguments):
    done = subprocess.run([sys.executable, "-P", *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_program_of_a_peer_is_on_a_page_and_is_tried_unless_it_cannot_be():
    shown = [include for page in PAGES for include in re.findall(r"literalinclude\} peers/(\S+)", (FOLDER / page).read_text())]
    assert sorted(shown) == sorted(path.name for path in (FOLDER / "peers").iterdir() if path.is_file())
    assert {Path(name).stem for name in shown} - set(NEEDS) == {"review_temporal", "fan_out"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_ours_prints_what_the_page_says(page):
    blocks = [match.groupdict() for match in OURS.finditer(THEIRS.sub("", (FOLDER / page).read_text()))]
    code = "\n".join(block["code"] for block in blocks if block["code"])
    shown = "".join(block["shown"] for block in blocks if block["shown"])
    if "anyio" in code and importlib.util.find_spec("anyio") is None:
        pytest.skip("anyio is not installed")
    assert shown
    assert printed_by("-W", "error", "-c", code) == shown


@pytest.mark.slow
@pytest.mark.parametrize("program", NEEDS)
def test_theirs_prints_what_the_page_says(program, tmp_path):
    if (package := NEEDS[program]) is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: its program on the page is not tried")
    shown = {path: text for page in PAGES for path, text in THEIRS.findall((FOLDER / page).read_text())}
    path = f"peers/{program}.py"
    assert printed_by(str(FOLDER / path), str(tmp_path / "theirs.db")) == shown[path]

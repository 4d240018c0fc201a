"""The house stays tidy: no module outgrows itself, and the layout comment names every room."""

from pathlib import Path

import pytest

import trioflow

ROOT = Path(trioflow.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_over_350_lines_is_two_modules(path):
    assert len(path.read_text().splitlines()) <= 350


def test_the_layout_comment_names_every_room():
    layout = (ROOT / "__init__.py").read_text().split('"""')[0]
    rooms = {
        f"{path.name}/" if path.is_dir() else path.stem
        for path in ROOT.iterdir()
        if path.name not in {"__init__.py", "__pycache__"} and path.suffix in {"", ".py"}
    }
    missing = {room for room in rooms if f"   {room} " not in layout}
    assert not missing

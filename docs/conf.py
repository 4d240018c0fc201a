"""How Sphinx builds the documentation: `nox -s docs`."""

import tomllib
from pathlib import Path

project = "trioflow"
author = "the trioflow authors"
copyright = "2026, the trioflow authors"
release = version = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
html_theme = "furo"
html_title = "trioflow"
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_heading_anchors = 3
napoleon_google_docstring = True

# `type[S]` in a signature finds the fields called `type`, too: Sphinx does not know which is meant.
suppress_warnings = ["ref.python"]

"""How Sphinx builds the documentation: `nox -s docs`."""

import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

_HERE = Path(__file__).parent
sys.path.append(str(_HERE / "_ext"))

project = "trioflow"
author = "the trioflow authors"
copyright = "2026, the trioflow authors"
release = version = tomllib.loads((_HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = ["mermaid", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
html_theme = "furo"
html_title = "trioflow"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
html_copy_source = False
html_search_scorer = str(_HERE / "_ext" / "search-scorer.js")
exclude_patterns = ["_build"]
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
napoleon_google_docstring = True


_SHORTER = (
    (r"= (\w+Config)\((?:[^()]|\([^()]*\))*\)", r"= \1()"),  # all of its settings, each with its default
    (r"= <class '(\w+)'>", r"= \1"),
    (r"\s*=\s*<factory>", " = ..."),
    (r"= TASK_STATUS_IGNORED", "= trio.TASK_STATUS_IGNORED"),
    (r"~(?:\w+\.)*(\w+)", r"\1"),
)


def _shorten_signature(  # noqa: PLR0917 - Sphinx calls it
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Show defaults as one would write them, and types without their modules."""
    del app, what, name, obj, options
    for pattern, replacement in _SHORTER if signature else ():
        signature = re.sub(pattern, replacement, signature or "")
    return signature, returns


def _keep_colons(  # noqa: PLR0917 - Sphinx calls it
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep Napoleon from taking the words before a colon in a field's description for its type."""
    del app, name, obj, options
    if what in {"attribute", "data", "property"} and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]


def _leave_builtins(app: Sphinx, doctree: nodes.document) -> None:
    """Keep `type[S]` in a signature from being taken for a field called `type`."""
    del app
    for reference in list(doctree.findall(pending_xref)):
        if reference.get("reftarget") == "type":
            reference.replace_self(nodes.Text("type"))


def setup(app: Sphinx) -> None:
    """Connect what is ours."""
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # Napoleon's has 500
    app.connect("doctree-read", _leave_builtins)

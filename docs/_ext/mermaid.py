"""Draws the Mermaid blocks of a page in the browser, by the copy of Mermaid that lies in `_static`.

A block is a `mermaid` fence, as GitHub draws it, too. Only a page that has one loads the script, and it loads
nothing from elsewhere, so the pages can be read from a disk. (sphinxcontrib-mermaid imports Mermaid as a module,
which browsers refuse to do for files.)
"""

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_SCRIPTS = ("mermaid.tiny.js", "mermaid-draw.js")


class Mermaid(SphinxDirective):
    """A diagram whose text is the block's content."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the text of the diagram, for the script to draw."""
        text = escape("\n".join(self.content))
        return [nodes.raw("", f'<pre class="mermaid" role="img">{text}</pre>\n', format="html", mermaid=True)]


def load_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the scripts in a page that has a diagram."""
    del page, template, context
    if doctree is not None and any("mermaid" in node for node in doctree.findall(nodes.raw)):
        for script in _SCRIPTS:
            app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive and the scripts."""
    app.add_directive("mermaid", Mermaid)
    app.connect("html-page-context", load_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Checks the built pages: links and anchors lead somewhere, nothing comes from elsewhere, and the search finds.

::

    python docs/check_site.py docs/_build/html

`sphinx-build` looks at no link that it did not make, and says nothing of how good the search is. The search is
asked what users ask, by the rules of Sphinx's `searchtools.js` and of our `search-scorer.js`: every word
must be on the page, a word in a heading counts more than one in the text, and how-to
pages come before notes on the design.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.search.en import SearchEnglish

QUESTIONS = {
    "rate limit": "howto/limit",
    "requests per second": "howto/limit",
    "token budget": "howto/limit",
    "timeout": "howto/limit",
    "retry": "howto/retry",
    "retry-after 429": "howto/retry",
    "stream results": "howto/stream",
    "graceful shutdown sigterm": "howto/stream",
    "resume after crash": "howto/resume",
    "idempotency key": "howto/resume",
    "postgresql": "howto/postgres",
    "human approval": "howto/graph",
    "conditional edge": "howto/graph",
    "parallel branches": "howto/graph",
    "agents send messages": "howto/hub",
    "process pool": "howto/executors",
    "dask cluster": "howto/executors",
    "opentelemetry": "howto/observe",
    "progress bar": "howto/observe",
    "web ui": "howto/page",
    "deploy systemd": "howto/service",
    "how many workers": "howto/whatif",
    "yaml config file": "howto/configure",
    "mock clock test": "howto/test",
    "process_parallel": "reference/parallel",
    "ParallelError": "reference/errors",
    "install": "index",
}
FIRST = 3
"""Among so many pages the expected one must be."""

TITLE, PARTIAL_TITLE, TERM, PARTIAL_TERM, OBJECT, PARTIAL_OBJECT = 15, 7, 5, 2, 11, 6
"""Scores of searchtools.js."""

SHELVES = {"howto/": 4, "tutorial/": 3, "index": 3, "cookbook/": 3, "reference/": 2}
"""What search-scorer.js adds by where a page stands."""


def main(folder: Path) -> int:
    """Print what is wrong, and return the exit status."""
    faults = [*check_links(folder), *check_signatures(folder), *check_search(folder)]
    for fault in faults:
        print(fault)
    print(f"{len(QUESTIONS)} questions asked, {len(faults)} faults")
    return 1 if faults else 0


class Page(HTMLParser):
    """What a page links to, what it loads, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in one element."""
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag == "link" and given.get("rel") in {"stylesheet", "preload", "icon"}:
            self.loads.add(given["href"])
        elif "src" in given:
            self.loads.add(given["src"])


def check_links(folder: Path) -> Iterator[str]:
    """Yield the links that lead nowhere, and what is loaded from elsewhere."""
    pages = {path: Page(path.read_text()) for path in folder.rglob("*.html")}
    for path, page in sorted(pages.items()):
        name = path.relative_to(folder)
        for target in sorted(page.links | page.loads):
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if target in page.loads:
                    yield f"{name}: loads {target} from elsewhere"
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.exists():
                yield f"{name}: {target} is not there"
            elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
                yield f"{name}: {target} has no such anchor"


def check_signatures(folder: Path) -> Iterator[str]:
    """Yield the signatures of the reference that show a default as no one would write it."""
    for path in sorted((folder / "reference").glob("*.html")):
        for signature in re.findall(r'<dt class="sig .*?</dt>', path.read_text(), re.DOTALL):
            text = " ".join(unescape(re.sub(r"<[^>]*>", "", signature)).split())
            if re.search(r"Config\(\w|= ?<|~\w|\b_[A-Z]{2,}", text):
                yield f"{path.relative_to(folder)}: {text}"


def check_search(folder: Path) -> Iterator[str]:
    """Yield the questions whose page is not among the first."""
    script = (folder / "searchindex.js").read_text()
    index = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))
    for question, expected in QUESTIONS.items():
        found = search(index, question)
        if expected not in found[:FIRST]:
            yield f"search for {question!r}: {expected} is not among {', '.join(found[:FIRST])}"


def search(index: dict[str, Any], question: str) -> list[str]:
    """Return the pages that answer, best first."""
    names, titles = index["docnames"], dict(zip(index["docnames"], index["titles"], strict=True))
    best: dict[str, float] = defaultdict(float)
    for file, score in [*in_titles(index, question), *in_texts(index, question), *in_objects(index, question)]:
        name = names[file]
        shelf = next((value for start, value in SHELVES.items() if name.startswith(start)), 0)
        best[name] = max(best[name], score + shelf)
    return sorted(best, key=lambda name: (-best[name], titles[name].lower()))


def in_titles(index: dict[str, Any], question: str) -> Iterator[tuple[int, float]]:
    """Yield where the whole question stands in a heading of at most twice its length."""
    asked = question.lower()
    for title, places in index["alltitles"].items():
        if asked in title.lower() and len(asked) >= len(title) / 2:
            for file, _ in places:
                yield file, round(TITLE * len(asked) / len(title))


def in_texts(index: dict[str, Any], question: str) -> Iterator[tuple[int, float]]:
    """Yield the pages that have every word of the question, with the score of the best word."""
    language = SearchEnglish({})
    words = [word for word in re.findall(r"\w+", question.lower()) if not word.isdecimal()]
    stems = {language.stem(word) for word in words if word not in language.stopwords}
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    for stem in stems:
        # Of several scores the last one holds, as in searchtools.js.
        for file, score in in_tables(index, stem):
            scores[file][stem] = score
    enough = {len(stems), sum(len(stem) > 2 for stem in stems)}
    for file, found in scores.items():
        if len(found) in enough:
            yield file, max(found.values())


def in_tables(index: dict[str, Any], stem: str) -> Iterator[tuple[int, float]]:
    """Yield the pages that have one word, first as it is, then within others where it is in none as it is."""
    tables = ("terms", TERM, PARTIAL_TERM), ("titleterms", TITLE, PARTIAL_TITLE)
    hits = [(table[stem], score) for name, score, _ in tables if stem in (table := index[name])]
    for name, _, score in tables:
        table = index[name]
        if stem not in table and len(stem) > 2:
            hits += [(table[term], score) for term in table if stem in term]
    for files, score in hits:
        for file in files if isinstance(files, list) else [files]:
            yield file, score


def in_objects(index: dict[str, Any], question: str) -> Iterator[tuple[int, float]]:
    """Yield the pages of public names that the question names."""
    asked = question.lower()
    for prefix, entries in index["objects"].items():
        for file, _, priority, _, name in entries:
            last = f"{prefix}.{name}".lower().rpartition(".")[2]
            if asked in last:
                yield file, (OBJECT if asked == last else PARTIAL_OBJECT) + {0: 15, 1: 5, 2: -5}.get(priority, 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))

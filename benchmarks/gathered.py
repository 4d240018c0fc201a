"""What `full.py` gathered, read back from its JSON: rows by script and question."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Gathered:
    """The measurements of a full run."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.facts: dict[str, Any] = told["facts"]
        self.scripts: dict[str, dict[str, Any]] = told["scripts"]

    @classmethod
    def read(cls, file: Path) -> "Gathered":
        return cls(json.loads(file.read_text()))

    def questions(self, script: str) -> dict[str, list[Row]]:
        """Return the rows of a script by the titles of their questions."""
        found: dict[str, list[Row]] = {}
        for row in self.scripts.get(script, {}).get("rows", ()):
            found.setdefault(row["question"], []).append(row)
        return found

    def series(self, script: str, letter: str) -> dict[str, list[Row]]:
        """Return, by contender, the rows of the questions of one letter that have sizes and values."""
        found: dict[str, list[Row]] = {}
        for row in self.scripts.get(script, {}).get("rows", ()):
            if row["question"].startswith(f"{letter}.") and row["x"] is not None and row["value"] is not None:
                found.setdefault(row["name"], []).append(row)
        return found


def relative(row: Row) -> list[float]:
    """Return how many times as long as ours a contender took, in each round that is known."""
    ratios = row["ratios"] or ([] if row["ratio"] is None else [row["ratio"]])
    return [1 / ratio for ratio in ratios] if row["role"] == "floor" else list(ratios)


def title_of(question: str) -> str:
    """Return the title of a question without its letter."""
    return question.partition(". ")[2]

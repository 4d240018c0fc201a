"""Reads the file that `TraceObserver` writes, entry by entry, in constant memory.

An entry is one line; the last one may be truncated by a crash. Any other unreadable entry is damage.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from trioflow._text import describe_error, one_line, quote
from trioflow.cli._printing import CommandError

ATTEMPT = "attempt"
"""The category of slices that are part of a call."""
INSIDE = "run"
"""The category of slices that are a run inside a call."""

_LONGEST_LINE = 1 << 20


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of the file; times are in microseconds."""

    ph: str
    pid: int
    tid: int
    ts: float = 0.0
    dur: float = 0.0
    name: str = ""
    cat: str = ""
    args: dict[str, Any] = {}

    @property
    def in_lane(self) -> bool:
        """Whether it is in the lane of a worker."""
        return self.tid != self.pid

    @property
    def is_call(self) -> bool:
        """Whether it is an item, a step or a node."""
        return self.ph == "X" and self.cat not in {ATTEMPT, INSIDE}

    def word(self, name: str, otherwise: str = "") -> str:
        """Return an argument that should be a string."""
        value = self.args.get(name)
        return value if isinstance(value, str) else otherwise

    def number(self, name: str, otherwise: float) -> float:
        """Return an argument that should be a number of 0 or more."""
        value = self.args.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return otherwise
        return float(value) if 0 <= value < math.inf else otherwise


def read_trace(path: str, take: Callable[[Entry], None]) -> bool:
    """Call `take` with each entry of the file, in order, and return whether the file is complete.

    Raises:
        CommandError: the file does not exist, or is damaged.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a name with a NUL is refused here too
            return _take_lines(take, path, file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else describe_error(error)
        raise CommandError(f"the trace {quote(path)} cannot be read: {one_line(why)}") from error


def _take_lines(take: Callable[[Entry], None], path: str, file: BinaryIO) -> bool:
    decode = msgspec.json.Decoder(Entry).decode
    if file.readline(_LONGEST_LINE).strip() != b"[":
        file.seek(0)
        if not file.read(1):
            raise CommandError(f"the trace {quote(path)} is empty")
        raise _damaged(path, 1, "it was not written by TraceObserver")
    lines = _with_next(enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 2))
    for (number, line), is_last in lines:
        text = line.strip()
        if text == b"]" and is_last:
            return True
        try:
            entry = decode(text.removesuffix(b","))
        except (msgspec.MsgspecError, UnicodeError) as error:
            if not is_last or line.endswith(b"\n"):
                raise _damaged(path, number, describe_error(error)) from error
        else:
            take(entry)
    return False


def _with_next(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[tuple[int, bytes], bool]]:
    """Yield each line, and whether it is the last."""
    rest = iter(lines)
    line = next(rest, None)
    while line is not None:
        following = next(rest, None)
        yield line, following is None
        line = following


def _damaged(path: str, number: int, why: str) -> CommandError:
    return CommandError(f"the trace {quote(path)} is damaged in line {number}: {one_line(why)}")

"""The state of a fan-out's checkpoint: what its input was, and which of its items failed.

A later call is checked against the input. The failures are only for people who look at the run: a call that
resumes it does not decode them, so no form of them can be a reason to refuse it.

They are grouped by message, as `count_errors` groups them, and bounded: the row of a run stays small, however many
items fail, in however many ways.
"""

from typing import Any, Final, final

import msgspec

from trioflow._text import clip, describe_error, escape_surrogates

__all__ = (
    "LONGEST_TEXT",
    "MOST_CATEGORIES",
    "FailureCategory",
    "FailureCounter",
    "Failures",
    "FanOut",
    "Header",
    "count_unfinished",
    "read_fan_out",
)

MOST_CATEGORIES = 100
"""Messages that are stored; items that fail with any other one are counted."""

LONGEST_TEXT = 1_000
"""Characters stored of a message, of a type's name and of a key."""

_NOTHING: Final = msgspec.Raw(b"\xc0")


class Header(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The input of a run, as far as it is known before any item is pulled, and its failures."""

    total: int | None
    """The length of the input; None if unknown."""
    named: bool
    """Whether items are identified by `key`."""
    first: bytes
    """The fingerprint of the first item; empty if unknown."""
    failures: msgspec.Raw = _NOTHING
    """The encoded `Failures` of the last call, or nothing; older rows lack it."""


class FailureCategory(msgspec.Struct, array_like=True, gc=False):
    """Failed items that share one message."""

    message: str
    """The message, clipped, with lone surrogates escaped; long messages with the same beginning are one."""
    type: str
    """Type name of the error of the first item."""
    count: int
    """How many items failed with this message."""
    first_index: int
    """The lowest index among them."""
    first_key: str | None
    """The key of that item, clipped; None without `key`, or if the item was never started."""


class Failures(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The failed items of a run."""

    failed: int
    """How many failed."""
    other: int
    """How many of them are in no category."""
    categories: list[FailureCategory]
    """Most frequent first, ties by lowest index."""


class FanOut(msgspec.Struct, frozen=True, gc=False):
    """What can be shown of a fan-out beside its items."""

    total: int | None = None
    """The length of the input; None if unknown."""
    named: bool = False
    """Whether items are identified by `key`."""
    failures: Failures | None = None
    """The failed items of the last call; None if there are none."""

    @property
    def failed(self) -> int:
        """How many items failed."""
        return 0 if self.failures is None else self.failures.failed


@final
class FailureCounter:
    """Counts the failed items of a run.

    Attributes:
        count: how many there are.
    """

    __slots__ = ("_categories", "_other", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._other: int = 0
        self._categories: dict[str, FailureCategory] = {}

    def __repr__(self) -> str:
        return f"<FailureCounter: {self.count} failed, {len(self._categories)} messages>"

    def add(self, index: int, error: Exception, *, key: str | None = None, count: int = 1) -> None:
        """Count an item that failed, or `count` items of which it is the first."""
        self.count += count
        message = _bounded(describe_error(error))
        category = self._categories.get(message)
        if category is not None:
            category.count += count
            if index > category.first_index:
                return
        elif len(self._categories) < MOST_CATEGORIES:
            category = self._categories[message] = FailureCategory(message, "", count, index, None)
        else:
            self._other += count
            return
        category.type = _bounded(type(error).__name__)
        category.first_index = index
        category.first_key = None if key is None else _bounded(key)

    def failures(self) -> Failures:
        """Return what was counted."""
        ordered = sorted(self._categories.values(), key=lambda each: (-each.count, each.first_index))
        return Failures(self.count, self._other, ordered)


def _bounded(text: str) -> str:
    # A string of a subclass cannot be encoded, and its methods may do anything.
    return clip(escape_surrogates(str.__str__(text)[: LONGEST_TEXT + 1]), LONGEST_TEXT)


_headers: Final = msgspec.msgpack.Decoder(Header)
_failures: Final = msgspec.msgpack.Decoder(Failures)


def read_fan_out(state: bytes) -> FanOut:
    """Return what the state of a fan-out's checkpoint shows; what cannot be read is left out."""
    header = _read(_headers, state)
    if header is None:
        return FanOut()
    return FanOut(header.total, header.named, _read(_failures, header.failures))


def _read(decoder: msgspec.msgpack.Decoder[Any], data: Any) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def count_unfinished(fan_out: FanOut, items: int) -> int | None:
    """Return how many items have no outcome, if `items` results are stored; None if unknown."""
    # Results of a keyed run may be of items that its last call did not include.
    if fan_out.total is None or fan_out.named:
        return None
    return max(0, fan_out.total - items - fan_out.failed)

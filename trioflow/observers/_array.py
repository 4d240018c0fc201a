"""A JSON array that grows in its file, for traces.

The closing bracket is written when the file has to be valid, and later entries overwrite it. Entries are written
whole, so a crash leaves a file that lacks at most the bracket. Buffered entries are limited in number and in age.
"""

from contextlib import suppress
from typing import Any, BinaryIO, final

import msgspec

_MOST_UNWRITTEN = 500
_LONGEST_UNWRITTEN = 1.0


@final
class GrowingArray:
    """The array; valid JSON after `finish` and `close`.

    Args:
        path: the file; the first write opens and truncates it.

    Attributes:
        broken: whether writing has failed; add nothing then.
        encode: returns the JSON of an entry.
    """

    def __init__(self, path: str) -> None:
        self.broken = False
        self._path = path
        self._file: BinaryIO | None = None
        self.encode = msgspec.json.Encoder().encode
        self._unwritten: list[bytes] = []
        self._count = 0
        self._flushed = 0.0
        self._end = 0  # where the next entry goes; at most a closing bracket follows

    def __repr__(self) -> str:
        return f"<GrowingArray of {self._end} bytes{', broken' if self.broken else ''}>"

    def add(self, entry: dict[str, Any]) -> None:
        """Append `entry`."""
        self._unwritten.append(self.encode(entry))
        self._count += 1

    def add_text(self, entries: str, count: int) -> None:
        """Append `count` entries that are encoded already, joined as in the file."""
        self._unwritten.append(entries.encode())
        self._count += count

    def flush_old(self, now: float) -> None:
        """Write the buffer, if it has many entries or an old one."""
        if self._count >= _MOST_UNWRITTEN or abs(now - self._flushed) >= _LONGEST_UNWRITTEN:
            self._flushed = now
            self._write(b"")

    def finish(self, now: float) -> None:
        """Write the buffer, and make the file valid JSON."""
        self._flushed = now
        self._write(b"\n]\n")

    def close(self) -> None:
        """Write the buffer, unless writing has failed before, and close the file."""
        try:
            if not self.broken:
                self._write(b"\n]\n" if self._end or self._unwritten else b"]\n")
        finally:
            if self._file is not None:
                self._file.close()

    def _write(self, closing: bytes) -> None:
        lead = b",\n" if self._end else b"[\n"
        piece = lead + b",\n".join(self._unwritten) if self._unwritten or not self._end else b""
        self._unwritten.clear()
        self._count = 0
        try:
            if self._file is None:
                self._file = open(self._path, "wb", buffering=0)  # noqa: SIM115, PTH123 - closed by `close`
            self._put(self._file, piece + closing)
        except OSError:
            self.broken = True
            self._mend()
            raise
        self._end += len(piece)

    def _put(self, file: BinaryIO, data: bytes) -> None:
        file.seek(self._end)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]

    def _mend(self) -> None:
        """Truncate a partly written entry, which leaves room for the bracket on a full disk."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._put(self._file, b"\n]\n" if self._end else b"[\n]\n")

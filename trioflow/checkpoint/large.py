"""Large values as bytes, and back, in pieces: no one call holds the interpreter for long.

A thread keeps the event loop free only between its calls into C, and msgspec writes a whole value in one. So
lists, dicts and texts are written part by part here, and read so; the bytes are the same.
"""

import codecs
import io
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

__all__ = ("LARGE", "PIECE", "decode_in_parts", "encode_in_parts", "is_large")

LARGE = 1 << 18
"""Bytes from which work on a value is given to a thread."""

PIECE = 1 << 20
"""Bytes that are copied in one go."""

_MAPPED = 33 << 20
"""Bytes from which glibc gives a block a mapping of its own, which grows where it is."""

_BATCH = 1_024
"""Members of a list or dict that are looked at together."""

_SMALL = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes, bytearray})
_FORMS: dict[type, tuple[int, int, int]] = {list: (0x90, 0xDC, 0xDD), dict: (0x80, 0xDE, 0xDF)}
"""The first byte of a list or dict of up to 15, of up to 65,535, and of more members."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_list = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_dict = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode


def is_large(value: Any) -> bool:
    """Whether encoding `value` takes so long that a thread should do it."""
    room = LARGE
    ahead: list[Any] = []
    parts = _inside(value)
    while True:
        # A part that is many small ones takes as long as a large one.
        room -= 64 * len(parts)
        if room < 0:
            return True
        for part in parts:
            kind = type(part)
            if kind in _TEXTS:
                room -= len(part)
            elif kind not in _SMALL:
                ahead.append(part)
        if not ahead:
            return room < 0
        parts = _inside(ahead.pop())


def _inside(part: Any) -> Collection[Any]:
    """Return what `part` holds, as far as it is data."""
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, list | tuple | set | frozenset):
        return part
    if isinstance(part, msgspec.Struct):
        return [getattr(part, name) for name in part.__struct_fields__]
    names = getattr(part, "__dataclass_fields__", ())
    return [getattr(part, name, None) for name in names]


def encode_in_parts(value: Any) -> bytes | None:
    """Return plain data as bytes that come back equal; None if there are none.

    Raises:
        Exception: msgspec cannot encode a part of it, or it is nested too deeply.
    """
    parts: list[bytes | memoryview] = []
    return _joined(parts) if _write(value, parts) else None


def _joined(parts: Sequence[bytes | memoryview]) -> bytes:
    """Return what `b"".join` does, part by part, and without touching all of the memory at once."""
    out = io.BytesIO(bytes(sum(map(len, parts))))
    for part in parts:
        out.write(part)
    return out.getvalue()


def _write(value: Any, parts: list[bytes | memoryview]) -> bool:
    """Write `value`; return whether all of it comes back equal."""
    kind = type(value)
    if kind is list or kind is dict:
        parts.append(_head(kind, len(value)))
        members = value if kind is list else list(value.items())
        return all(
            _write_members(members[at : at + _BATCH], kind, parts) for at in range(0, len(members), _BATCH)
        )
    if kind in {str, bytes} and len(value) > PIECE:
        return _write_text(value, parts)
    data = _encode(value)
    parts.append(data)
    return bool(_decode(data) == value)


def _write_members(members: list[Any], kind: type, parts: list[bytes | memoryview]) -> bool:
    if len(members) == 1 and kind is list:
        return _write(members[0], parts)
    if len(members) == 1:
        ((name, value),) = members
        data = _encode({name: None})
        parts.append(memoryview(data)[1:-1])
        return bool(_decode(data) == {name: None}) and _write(value, parts)
    if is_large(members):
        middle = len(members) // 2
        return _write_members(members[:middle], kind, parts) and _write_members(members[middle:], kind, parts)
    together = kind(members)
    data = _encode(together)
    parts.append(memoryview(data)[len(_head(kind, len(members))) :])
    return bool(_decode(data) == together)


def _write_text(text: str | bytes, parts: list[bytes | memoryview]) -> bool:
    """Write a long text: what can be encoded comes back equal."""
    size = sum(map(len, _cut(text)))
    if size >= 1 << 32:
        raise OverflowError(f"a text of {size} bytes is too long")
    parts.append(struct.pack(">BI", 0xDB if isinstance(text, str) else 0xC6, size))
    parts.extend(_cut(text))
    return True


def _cut(text: str | bytes) -> Iterator[bytes]:
    for at in range(0, len(text), PIECE):
        part = text[at : at + PIECE]
        yield part.encode() if isinstance(part, str) else part


def _head(kind: type, count: int) -> bytes:
    """Return how MessagePack begins a list or dict of `count` members."""
    few, some, many = _FORMS[kind]
    if count < 16:
        return bytes([few | count])
    return struct.pack(">BH", some, count) if count < 1 << 16 else struct.pack(">BI", many, count)


def decode_in_parts(data: bytes | msgspec.Raw) -> Any:
    """Return the plain data in `data`.

    Raises:
        Exception: it is none.
    """
    view = memoryview(data)
    if len(view) < LARGE:
        return _decode(view)
    first = view[0]
    if first & 0xF0 == 0x90 or first in {0xDC, 0xDD}:
        return [decode_in_parts(part) for part in _decode_list(view)]
    if first & 0xF0 == 0x80 or first in {0xDE, 0xDF}:
        return {name: decode_in_parts(part) for name, part in _decode_dict(view).items()}
    if first in {0xDB, 0xC6} and len(view) == 5 + int.from_bytes(view[1:5], "big"):
        return _read_str(view[5:]) if first == 0xDB else _joined(list(_pieces(view[5:])))
    return _decode(view)




def _read_str(view: memoryview) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = decoder.decode(view[:_MAPPED])
    for piece in _pieces(view[_MAPPED:]):
        # CPython lengthens a text that nobody else has where it is; a join would copy all of it at once.
        text += decoder.decode(piece)
    return text + decoder.decode(b"", final=True)


def _pieces(view: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(view), PIECE):
        yield view[at : at + PIECE]

"""Values as bytes: exactly, or not at all.

msgspec writes MessagePack, fast and without code in the data, but changes what MessagePack has no form for: a
tuple comes back as a list, a set too, a Decimal as text. So what was written is read again at once and compared;
what does not come back equal is refused, with the place of it. Nothing here imports or calls what data names.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar, final

import msgspec

from trioflow._text import clip, describe_error, escape, show
from trioflow.checkpoint.large import decode_in_parts, encode_in_parts
from trioflow.checkpoint.protocol import Checkpoint
from trioflow.errors import CheckpointCorruptError, CheckpointEncodeError, CheckpointMismatchError

__all__ = ("Codec", "digest_of", "fingerprint", "sealed", "verified")

V = TypeVar("V")

_BREAKERS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, AttributeError)

_LOST: Any = object()
"""What stands for a part that was not decoded."""

_DEEPEST = 50
"""How deep the place of what cannot be saved is looked for."""

_encoder = msgspec.msgpack.Encoder()
_any = msgspec.msgpack.Decoder()


@final
class Codec(Generic[V]):
    """Encodes and decodes the values of one type.

    Args:
        kind: a msgspec struct or a dataclass, to come back as such; anything else stands for plain data.
        wrap: makes the value of what was decoded, and `unwrap` what is encoded of it, for a mapping of our own.
        what: what the values are, for errors.
    """

    __slots__ = ("_decoder", "_what", "_wrap", "plain")

    def __init__(
        self,
        kind: Any,
        *,
        wrap: type | None = None,
        unwrap: Callable[[Any], dict[str, Any]] = dict,
        what: str = "the state",
    ) -> None:
        self._decoder = _any if wrap is not None or kind is Any else msgspec.msgpack.Decoder(kind)
        self._wrap = wrap
        self.plain: Callable[[Any], Any] = _same if wrap is None else unwrap
        self._what = what

    def __repr__(self) -> str:
        return f"<Codec of {self._what}>"

    def encode(self, value: V) -> bytes:
        """Return `value` as bytes that come back equal.

        Raises:
            CheckpointEncodeError: there are none; the message names the place and the type.
        """
        return self.encode_plain(self.plain(value))

    def encode_plain(self, plain: Any) -> bytes:
        """Return what `plain` made of a value as bytes that come back equal."""
        back: Any = _LOST
        try:
            data = _encoder.encode(plain)
            back = self._decoder.decode(data)
            if back == plain:
                return data
        except _BREAKERS as error:
            raise self._refusal(plain, back, clip(escape(describe_error(error)))) from error
        raise self._refusal(plain, back, "it would not come back equal")

    def encode_large(self, plain: Any) -> bytes:
        """Do what `encode_plain` does, with pauses for other threads where it is plain data."""
        data: bytes | None = None
        if self._decoder is _any:
            with suppress(*_BREAKERS):
                data = encode_in_parts(plain)
        return self.encode_plain(plain) if data is None else data

    def decode(self, data: bytes) -> V:
        """Return the value in `data`.

        Raises:
            CheckpointMismatchError: it is not a value of this type.
        """
        try:
            plain = decode_in_parts(data) if self._decoder is _any else self._decoder.decode(data)
            value: V = plain if self._wrap is None else self._wrap(plain)
        except _BREAKERS as error:
            message = f"{self._what} that was saved is of another type now: {clip(escape(describe_error(error)))}"
            raise CheckpointMismatchError(message) from error
        return value

    def _refusal(self, value: Any, back: Any, why: str) -> CheckpointEncodeError:
        place, part = _culprit(value, back)
        where = f" at {place}" if place else ""
        return CheckpointEncodeError(f"{self._what} cannot be saved: the {type(part).__name__}{where}: {why}")


def _same(value: Any) -> Any:
    return value


def _culprit(value: Any, back: Any, place: str = "") -> tuple[str, Any]:
    """Return the innermost part of `value` that did not come `back`, and where it is."""
    returned = dict(_parts(back))
    if place.count("[") < _DEEPEST:
        for name, part in _parts(value):
            if not _survives(part, returned.get(name, _LOST)):
                return _culprit(part, returned.get(name, _LOST), f"{place}[{show(name)}]")
    return place, value


def _survives(part: Any, back: Any) -> bool:
    try:
        _encoder.encode(part)
        return back is _LOST or bool(back == part)
    except _BREAKERS:
        return False


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name, None)) for name in value.__struct_fields__]
    if hasattr(value, "__dataclass_fields__"):
        return [(name, getattr(value, name, None)) for name in value.__dataclass_fields__]
    return []


def fingerprint(item: object) -> bytes:
    """Return 16 bytes that stand for `item`: equal for equal data, in any process.

    Raises:
        CheckpointEncodeError: the item has no form as data.
    """
    try:
        data = _encoder.encode(item)
    except _BREAKERS as error:
        why = clip(escape(describe_error(error)))
        raise CheckpointEncodeError(
            f"an item of type {type(item).__name__} cannot be told from others ({why}): "
            "give key=, a function that names an item"
        ) from error
    return hashlib.blake2b(data, digest_size=16).digest()


def digest_of(checkpoint: Checkpoint) -> str:
    """Return the hex SHA-256 of all fields but the digest."""
    c = checkpoint
    place = (c.run_id, c.graph, c.step, c.node, c.next_node, c.iterations, c.status, c.pause)
    # The state comes last and needs no length: what is before it ends by itself.
    hasher = hashlib.sha256(_encoder.encode((place, float(c.created_at), c.version)))
    hasher.update(c.state)
    return hasher.hexdigest()


def sealed(checkpoint: Checkpoint) -> Checkpoint:
    """Return `checkpoint`, which is nobody else's yet, with its digest."""
    msgspec.structs.force_setattr(checkpoint, "digest", digest_of(checkpoint))
    return checkpoint


def verified(checkpoint: Checkpoint, run_id: str, step: int | None) -> Checkpoint:
    """Return `checkpoint`, which was asked for as this step of this run, if it is what was saved.

    Raises:
        CheckpointCorruptError: it is not.
    """
    asked = checkpoint.run_id == run_id and step in {None, checkpoint.step}
    if not asked or checkpoint.digest != digest_of(checkpoint):
        raise CheckpointCorruptError(
            f"step {checkpoint.step} of run {show(run_id)} is damaged: its digest is not that of what was saved; "
            "resume from an earlier step, or delete the run",
            run_id=run_id,
        )
    return checkpoint

"""Values as bytes: exactly, or not at all.

msgspec writes MessagePack, fast and without code in the data, but changes what MessagePack has no form for: a
tuple comes back as a list, an enum as its value. Plain data is looked over for types that do not come back; where
a type is given, what was written is read again at once and compared part by part, types too. What is not exact
is refused with its place. Nothing here imports or calls what data names.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar, final

import msgspec

from trioflow._text import clip, describe_error, escape, show
from trioflow.checkpoint import _exact, _models
from trioflow.checkpoint.protocol import Checkpoint
from trioflow.errors import CheckpointCorruptError, CheckpointEncodeError, CheckpointMismatchError, ConfigError

__all__ = ("LARGE", "Codec", "digest_of", "fingerprint", "is_large", "is_marked", "is_typed", "sealed", "verified")

V = TypeVar("V")

LARGE = 1 << 18
"""Bytes from which hashing is given to a thread: what takes longer than the way there and back."""

_LARGE_VALUE = 2 << 20
"""The same for encoding, which is that much faster; a part of a value counts as `_PART` bytes."""

_PART = 512

_BREAKERS = _exact.BREAKERS
_OPTIONS = {"the state": "state_type", "a result": "result_type"}
"""The argument that gives the type of what is encoded."""

_PLAIN = "make plain data of it (of a pydantic model by model_dump())"

_LOST: Any = object()
"""What stands for a part that was not decoded."""

_DEEPEST_PLACE = 50
"""How deep the place of what cannot be saved is looked for."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_encode_typed: Final = msgspec.msgpack.Encoder(enc_hook=_models.dump).encode


@final
class Codec(Generic[V]):
    """Encodes and decodes the values of one type.

    Args:
        kind: what msgspec knows, or a pydantic model, to come back as such; `Any` stands for plain data.
        wrap: makes the value of what was decoded, and `unwrap` what is encoded of it, for a mapping of our own.
        what: what the values are, for errors.
        option: what to do where no type was given, for errors; None is to give the argument that takes one.

    Raises:
        ConfigError: values of this type cannot be decoded.
    """

    __slots__ = ("_decode", "_encode", "_option", "_typed", "_what", "_wrap", "plain")

    def __init__(
        self,
        kind: Any,
        *,
        wrap: type | None = None,
        unwrap: Callable[[Any], dict[str, Any]] = dict,
        what: str = "the state",
        option: str | None = None,
    ) -> None:
        self._typed = wrap is None and kind is not Any
        self._encode: Callable[[Any], bytes] = _encode
        self._decode: Callable[[bytes], Any] = _decode
        if self._typed:
            self._encode, self._decode = _typed_ways(kind, what)
        self._wrap = wrap
        self.plain: Callable[[Any], Any] = _same if wrap is None else unwrap
        self._what = what
        self._option = option or (f"give {_OPTIONS[what]}=" if what in _OPTIONS else None)

    def __repr__(self) -> str:
        return f"<Codec of {self._what}>"

    def encode(self, value: V) -> bytes:
        """Return `value` as bytes that come back equal and of the same types.

        Raises:
            CheckpointEncodeError: there are none; the message names the place and the type.
        """
        return self.encode_plain(self.plain(value))

    def encode_plain(self, plain: Any) -> bytes:
        """Return what `plain` made of a value as bytes that come back as it is."""
        back: Any = _LOST
        try:
            data = self._encode(plain)
            if self._typed:
                back = self._decode(data)
                exact = _exact.is_same(plain, back)
            else:
                exact = _exact.is_plain(plain)
            if exact:
                return data
        except _BREAKERS as error:
            raise self._refusal(plain, back, clip(escape(describe_error(error)))) from error
        raise self._refusal(plain, back, "it would not come back equal and of the same type")

    def decode(self, data: bytes) -> V:
        """Return the value in `data`.

        Raises:
            CheckpointMismatchError: it is not a value of this type.
        """
        try:
            plain = self._decode(data)
            value: V = plain if self._wrap is None else self._wrap(plain)
        except _BREAKERS as error:
            message = f"{self._what} that was saved is of another type now: {clip(escape(describe_error(error)))}"
            raise CheckpointMismatchError(message) from error
        return value

    def _refusal(self, value: Any, back: Any, why: str) -> CheckpointEncodeError:
        place, part = self._culprit(value, back)
        where = f" at {clip(place)}" if place else ""
        # Where a type was given, giving one is no way out.
        option = None if self._typed else self._option
        way_out = _PLAIN if option is None else f"{option}, or {_PLAIN}"
        message = f"{self._what} cannot be saved: the {type(part).__name__}{where}: {why}; {way_out}"
        return CheckpointEncodeError(message)

    def _culprit(self, value: Any, back: Any) -> tuple[str, Any]:
        """Return the innermost part of `value` that did not come `back`, and where it is."""
        place = ""
        for _ in range(_DEEPEST_PLACE):
            if not self._typed and type(value) is dict:
                for name in value:
                    if not _exact.is_plain_name(name):
                        return f"{place}[{show(name)}] (a key)", name
            returned = dict(_exact.named_parts(back))
            for name, part in self._named_parts(value):
                if not self._survives(part, returned.get(name, _LOST)):
                    value, back, place = part, returned.get(name, _LOST), f"{place}[{show(name)}]"
                    break
            else:
                break
        return place, value

    def _named_parts(self, value: Any) -> Iterable[tuple[Any, Any]]:
        # Without a type, the parts of what is no plain list or dict are not what is wrong with it.
        return _exact.named_parts(value) if self._typed or type(value) in {list, dict} else ()

    def _survives(self, part: Any, back: Any) -> bool:
        try:
            (_encode_typed if self._typed else _encode)(part)
        except _BREAKERS:
            return False
        if not self._typed:
            return _exact.is_plain(part)
        # What is not even the same as itself is NaN, or has one.
        return _exact.is_same(part, part if back is _LOST else back)


def _typed_ways(kind: Any, what: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return what encodes and what decodes values of the type `kind`."""
    try:
        _models.check_known(kind)
        return _encode_typed, msgspec.msgpack.Decoder(kind, dec_hook=_models.load).decode
    except (TypeError, NameError) as error:
        adapted = _models.adapt(kind)
        if adapted is not None:
            return adapted
        allowed = f"a type that can be read back ({clip(escape(describe_error(error)))})"
        raise ConfigError.refusing(_OPTIONS.get(what, f"the type of {what}"), kind, allowed) from error


def _same(value: Any) -> Any:
    return value


def is_typed(kind: type) -> bool:
    """Whether values of `kind` come back as such where it is given: structs, dataclasses and pydantic models."""
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__dataclass_fields__") or _exact.is_model(kind)


_SMALL = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes, bytearray})
_ATOMS = _SMALL | _TEXTS


def is_large(value: Any) -> bool:
    """Whether encoding `value` takes so long that a thread should do it."""
    if type(value) in _ATOMS:
        return type(value) in _TEXTS and len(value) > _LARGE_VALUE
    room = _LARGE_VALUE
    ahead: list[Any] = []
    parts = _exact.parts(value)
    while True:
        # A part that is many small ones takes as long as a large one, and one that holds itself never ends.
        room -= _PART * (len(parts) + 1)
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
        parts = _exact.parts(ahead.pop())


def fingerprint(item: object) -> bytes:
    """Return 16 bytes that stand for `item`: equal for equal data, in any process, whatever the order of sets.

    Raises:
        CheckpointEncodeError: the item has no form as data.
    """
    try:
        data = _encode(_exact.in_order(item))
    except _BREAKERS as error:
        why = clip(escape(describe_error(error)))
        raise CheckpointEncodeError(
            f"an item of type {type(item).__name__} cannot be told from others ({why}): "
            "give key=, a function that names an item"
        ) from error
    return _mark(data)


def is_marked(item: object, mark: bytes) -> bool:
    """Whether `mark` is the fingerprint of `item`; one that an earlier version of trioflow made counts, too.

    Raises:
        CheckpointEncodeError: the item has no form as data.
    """
    if fingerprint(item) == mark:
        return True
    try:
        # Form 1 took sets and dicts in the order that they had.
        return _mark(_encode(item)) == mark
    except _BREAKERS:
        return False


def _mark(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def digest_of(checkpoint: Checkpoint) -> str:
    """Return the hex SHA-256 of all fields but the digest."""
    c = checkpoint
    place = (c.run_id, c.graph, c.step, c.node, c.next_node, c.iterations, c.status, c.pause)
    if c.version == 1:
        fields = _encode((place, float(c.created_at), c.version))
    else:
        fields = _encode((place, float(c.created_at), c.version, c.kind, c.forked_from))
    # The state comes last and needs no length: what is before it ends by itself.
    hasher = hashlib.sha256(fields)
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

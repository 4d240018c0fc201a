"""Encodes values exactly, or not at all.

msgspec writes MessagePack, fast and without code in the data, but changes values that MessagePack cannot
represent: a tuple decodes as a list, an enum as its value. Plain data is checked for types that do not round-trip;
with a type given, encoded data is decoded at once and compared part by part, types included. A value that does not
round-trip is refused with its place. Nothing here imports or calls what data names.
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
"""Bytes from which hashing runs in a thread: it then takes longer than the switch to a thread and back."""

_LARGE_VALUE = 2 << 20
"""The same for encoding, which is faster; each part of a value counts as `_PART` bytes."""

_PART = 512

_BREAKERS = _exact.BREAKERS
_OPTIONS = {"the state": "state_type", "a result": "result_type"}
"""The argument that takes the type of the value."""

_PLAIN = "convert it to plain data (a pydantic model by model_dump())"

_LOST: Any = object()
"""Stands for a part that was not decoded."""

_DEEPEST_PLACE = 50
"""How deep to search for the place of a value that cannot be saved."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_encode_typed: Final = msgspec.msgpack.Encoder(enc_hook=_models.dump).encode


@final
class Codec(Generic[V]):
    """Encodes and decodes the values of one type.

    Args:
        kind: a type that msgspec supports, or a pydantic model; `Any` is plain data.
        wrap: turns decoded data into a value, as `unwrap` does the reverse, for a mapping of our own.
        what: what the values are, for error messages.
        option: the advice in errors if no type was given; None is to pass the argument that takes the type.

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
        """Encode `value` to bytes that decode to an equal value of the same types.

        Raises:
            CheckpointEncodeError: that is not possible; the message names the place and the type.
        """
        return self.encode_plain(self.plain(value))

    def encode_plain(self, plain: Any) -> bytes:
        """Encode the result of `plain` to bytes that decode to the same."""
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
        """Decode `data`.

        Raises:
            CheckpointMismatchError: it is not a value of this type.
        """
        try:
            plain = self._decode(data)
            value: V = plain if self._wrap is None else self._wrap(plain)
        except _BREAKERS as error:
            message = f"{self._what} that was saved is of another type: {clip(escape(describe_error(error)))}"
            raise CheckpointMismatchError(message) from error
        return value

    def _refusal(self, value: Any, back: Any, why: str) -> CheckpointEncodeError:
        place, part = self._culprit(value, back)
        where = f" at {clip(place)}" if place else ""
        # If a type was given already, giving one is no solution.
        option = None if self._typed else self._option
        way_out = _PLAIN if option is None else f"{option}, or {_PLAIN}"
        message = f"{self._what} cannot be saved: the {type(part).__name__}{where}: {why}; {way_out}"
        return CheckpointEncodeError(message)

    def _culprit(self, value: Any, back: Any) -> tuple[str, Any]:
        """Return the innermost part of `value` that does not round-trip to `back`, and its place."""
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
        # Without a type, a value that is not a plain list or dict is itself at fault, not its parts.
        return _exact.named_parts(value) if self._typed or type(value) in {list, dict} else ()

    def _survives(self, part: Any, back: Any) -> bool:
        try:
            (_encode_typed if self._typed else _encode)(part)
        except _BREAKERS:
            return False
        if not self._typed:
            return _exact.is_plain(part)
        # A value that is not equal to itself is NaN, or contains one.
        return _exact.is_same(part, part if back is _LOST else back)


def _typed_ways(kind: Any, what: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return an encoder and a decoder of values of the type `kind`."""
    try:
        _models.check_known(kind)
        return _encode_typed, msgspec.msgpack.Decoder(kind, dec_hook=_models.load).decode
    except (TypeError, NameError) as error:
        adapted = _models.adapt(kind)
        if adapted is not None:
            return adapted
        allowed = f"a type that can be decoded ({clip(escape(describe_error(error)))})"
        raise ConfigError.refusing(_OPTIONS.get(what, f"the type of {what}"), kind, allowed) from error


def _same(value: Any) -> Any:
    return value


def is_typed(kind: type) -> bool:
    """Whether values of `kind` can be decoded to that type: structs, dataclasses and pydantic models."""
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__dataclass_fields__") or _exact.is_model(kind)


_SMALL = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes, bytearray})
_ATOMS = _SMALL | _TEXTS


def is_large(value: Any) -> bool:
    """Whether encoding `value` takes so long that it should run in a thread."""
    if type(value) in _ATOMS:
        return type(value) in _TEXTS and len(value) > _LARGE_VALUE
    room = _LARGE_VALUE
    ahead: list[Any] = []
    parts = _exact.parts(value)
    while True:
        # Many small parts take as long as a large one, and a cycle would never end.
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
    """Return a digest of `item`, 16 bytes: equal for equal data, in any process, whatever the order of sets.

    Raises:
        CheckpointEncodeError: the item cannot be encoded.
    """
    try:
        data = _encode(_exact.in_order(item))
    except _BREAKERS as error:
        why = clip(escape(describe_error(error)))
        raise CheckpointEncodeError(
            f"an item of type {type(item).__name__} cannot be fingerprinted ({why}): "
            "give key=, a function that identifies an item"
        ) from error
    return _mark(data)


def is_marked(item: object, mark: bytes) -> bool:
    """Whether `mark` is the fingerprint of `item`, by this or an earlier version of trioflow.

    Raises:
        CheckpointEncodeError: the item cannot be encoded.
    """
    if fingerprint(item) == mark:
        return True
    try:
        # Form 1 did not sort sets and dicts.
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
    # The state comes last and needs no length: the fields before it are self-delimiting.
    hasher = hashlib.sha256(fields)
    hasher.update(c.state)
    return hasher.hexdigest()


def sealed(checkpoint: Checkpoint) -> Checkpoint:
    """Set the digest of `checkpoint`, to which nothing else refers yet, and return it."""
    msgspec.structs.force_setattr(checkpoint, "digest", digest_of(checkpoint))
    return checkpoint


def verified(checkpoint: Checkpoint, run_id: str, step: int | None) -> Checkpoint:
    """Return `checkpoint` if it is undamaged, and is this step of this run.

    Raises:
        CheckpointCorruptError: it is not.
    """
    is_requested = checkpoint.run_id == run_id and step in {None, checkpoint.step}
    if not is_requested or checkpoint.digest != digest_of(checkpoint):
        raise CheckpointCorruptError(
            f"step {checkpoint.step} of run {show(run_id)} is damaged: its digest does not match; "
            "resume from an earlier step, or delete the run",
            run_id=run_id,
        )
    return checkpoint

"""What a run ended with, as bytes: any process can read it, and nothing in it is code.

Of a result all but the state is kept here: the state is the run's last step. Of an error the type's name, the
message, the arguments where they are plain data, and the text of its traceback are kept; it is made again where
its type is one of Python's or of trioflow's, from a `RemoteError` that says what is known of it.
"""

import builtins
import traceback
from typing import Any

import msgspec

import trioflow.errors
from trioflow._text import describe_error, escape_surrogates
from trioflow.checkpoint.codec import Codec
from trioflow.errors import CheckpointEncodeError, ExecutionError, RemoteError

__all__ = ("Completed", "Failed", "completed", "decode_outcome", "failed", "rebuilt", "type_name")

_TRACEBACK_LIMIT = 20_000
"""Characters of a traceback that are kept, the last ones."""

_plain: Codec[Any] = Codec(Any, what="the arguments of an error")


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """A result, without its state."""

    exit_point: str | None
    path: list[str]
    iterations: int


class _Remote(msgspec.Struct, frozen=True):
    """What is known of an error that cannot be made again."""

    type: str
    message: str
    traceback: str


class _Place(msgspec.Struct, frozen=True):
    """What an `ExecutionError` has beside its cause."""

    node: str
    path: list[str]
    kind: str
    reason: str | None
    state: bytes | None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error."""

    error: _Remote
    cause: _Remote | None
    arguments: bytes | None
    place: _Place | None


Outcome = Completed | Failed

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)


def decode_outcome(data: bytes) -> Outcome:
    """Return what a run ended with."""
    return _decoder.decode(data)


def completed(exit_point: str | None, path: list[str], iterations: int) -> bytes:
    """Return a result as bytes."""
    return _encode(Completed(exit_point, path, iterations))


def failed(error: Exception, codec: Codec[Any]) -> bytes:
    """Return an error as bytes.

    Args:
        error: the error.
        codec: encodes the states of the run.
    """
    cause = error.__cause__
    place = None
    if isinstance(error, ExecutionError):
        state = _encoded(codec, error.state)
        place = _Place(error.node, error.path, error.kind, error.reason, state)
    arguments = None if place else _encoded(_plain, list(error.args))
    return _encode(Failed(_remote(error), None if cause is None else _remote(cause), arguments, place))


def rebuilt(outcome: Failed, run_id: str, codec: Codec[Any]) -> Exception:
    """Return the error: one of its type where that is ours or Python's, from what is known of it.

    The cause of an `ExecutionError` stands for what the node had raised.
    """
    known = outcome.cause if outcome.place and outcome.cause else outcome.error
    remote = RemoteError(known.type, known.message, known.traceback)
    error = _of_its_type(outcome, run_id, codec)
    if error is None:
        return remote
    error.__cause__ = remote
    return error


def _of_its_type(outcome: Failed, run_id: str, codec: Codec[Any]) -> Exception | None:
    place = outcome.place
    if place is not None:
        state = None if place.state is None else codec.decode(place.state)
        kind: Any = place.kind
        return ExecutionError(place.node, state, place.path, run_id, kind=kind, reason=place.reason)
    name = outcome.error.type
    kind = getattr(trioflow.errors, name.rpartition(".")[2] if name.startswith("trioflow.") else "", None)
    kind = kind or getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    arguments = [outcome.error.message] if outcome.arguments is None else _plain.decode(outcome.arguments)
    try:
        error = kind(*arguments)
    except Exception:  # noqa: BLE001 - a type that cannot be made of its arguments is described, not made
        return None
    if isinstance(error, trioflow.errors.CheckpointError):
        error.run_id = run_id
    return error


def type_name(kind: type) -> str:
    """Return the name of a type, with its module unless it is Python's own."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _remote(error: BaseException) -> _Remote:
    text = "".join(traceback.format_exception(error))[-_TRACEBACK_LIMIT:]
    return _Remote(type_name(type(error)), escape_surrogates(describe_error(error)), escape_surrogates(text))


def _encoded(codec: Codec[Any], value: object) -> bytes | None:
    try:
        return codec.encode(value)
    except CheckpointEncodeError:
        return None

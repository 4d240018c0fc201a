"""The outcome of a run, as bytes: any process can read it, and it contains no code.

For a result, everything but the state is stored here: the state is in the run's last step. For an error, the name
of its type, the message, the arguments if they are plain data, and the text of its traceback are stored. The error
is recreated if its type is Python's or trioflow's, with a `RemoteError` that has these facts as its cause.
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
"""Characters of a traceback that are stored: the last ones."""

_plain: Codec[Any] = Codec(Any, what="the arguments of an error")


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """A result, without its state."""

    exit_point: str | None
    path: list[str]
    iterations: int


class _Remote(msgspec.Struct, frozen=True):
    """The facts about an error that cannot be recreated."""

    type: str
    message: str
    traceback: str


class _Place(msgspec.Struct, frozen=True):
    """The fields of an `ExecutionError` besides its cause."""

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
    """Return the outcome of a run."""
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
    """Return the error: of its own type if that is trioflow's or Python's, from the facts that are stored.

    The cause of an `ExecutionError` stands for the error that the node raised.
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
    except Exception:  # noqa: BLE001 - if the type rejects its arguments, the error is described, not recreated
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

"""The requests and responses of an executor: a chunk of calls, and the outcome of each.

If caller and worker share memory, a `Request` is performed directly. Otherwise the executor pickles it, and
`__reduce__` packs every call separately: an argument that cannot be pickled fails only its own call, and so do
results and errors on the way back. Packing never raises, because an exception while a pool pickles or unpickles is
lost, or breaks the pool.

Packing happens in a thread of the executor or of ours, never in the event loop. Each argument is a `dump` of its
own, so that other threads can run in between.
"""

import inspect
import io
import pickle
import traceback
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from types import FunctionType, TracebackType
from typing import Any, cast, final

import trio

from trioflow._runtime.context import WorkInHand, nothing_in_hand, working
from trioflow._text import describe_error, one_line, quote
from trioflow.config.checks import is_async
from trioflow.errors import ConfigError, TransferError
from trioflow.executors._tracing import Headers, attach_headers, current_headers

Outcome = tuple[Any, BaseException | None]
"""The result, or the error."""

Origin = tuple[tuple[Any, ...] | None, Headers | None]
"""The origin of a call: the fields of the `WorkInHand`, and the headers of the span."""

Call = tuple[tuple[Any, ...], dict[str, Any], Origin]
"""Positional arguments, keyword arguments, and the origin."""

_PROTOCOL = pickle.HIGHEST_PROTOCOL


@final
class Request:
    """The calls of a chunk.

    Args:
        fn: the function to call.
        calls: the calls.
        by_value: whether functions may be pickled by value (cloudpickle), and not only by name.
    """

    __slots__ = ("_by_value", "_calls", "_fn")

    def __init__(self, fn: Callable[..., Any], calls: Sequence[Call], *, by_value: bool) -> None:
        self._fn = fn
        self._calls = calls
        self._by_value = by_value

    def __repr__(self) -> str:
        return f"<Request: {len(self._calls)} calls of {name_of(self._fn)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        fn: bytes | ConfigError
        try:
            fn = _pack([self._fn], by_value=self._by_value)
        except Exception as error:  # noqa: BLE001 - whatever a user's object raises
            fn = unpicklable(self._fn, error)
        calls = [self._pack(*call) for call in self._calls]
        return PackedRequest, (name_of(self._fn), fn, calls, self._by_value)

    def perform(self) -> "Response":
        """Make the calls, one after the other."""
        fn = _Callable(self._fn)
        return Response([fn.call(*call) for call in self._calls], by_value=self._by_value)

    def _pack(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], origin: Origin
    ) -> "PackedCall | TransferError":
        values = [*args, *kwargs.values()]
        try:
            return _pack(values, by_value=self._by_value), len(args), tuple(kwargs), origin
        except _ItemError as error:
            which = _argument(self._fn, error.position, len(args), tuple(kwargs))
            kind = type(values[error.position]).__name__
            return TransferError(
                f"{which} of {name_of(self._fn)}, a {kind}, cannot be pickled: {_why(error.__cause__)}; "
                "pass something that can be pickled, such as data or a file name",
                "argument",
            )


PackedCall = tuple[bytes, int, tuple[str, ...], Origin]
"""The values of the arguments, how many are positional, the names of the others, and the origin."""


@final
class PackedRequest:
    """A `Request` on the other side: each call is unpacked only when it is made."""

    __slots__ = ("_by_value", "_calls", "_fn", "_name")

    def __init__(
        self,
        name: str,
        fn: bytes | ConfigError,
        calls: Sequence[PackedCall | TransferError],
        by_value: bool,  # noqa: FBT001 - called by position
    ) -> None:
        self._name = name
        self._fn = fn
        self._calls = calls
        self._by_value = by_value

    def __repr__(self) -> str:
        return f"<PackedRequest: {len(self._calls)} calls of {self._name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._name, self._fn, self._calls, self._by_value)

    def perform(self) -> "Response":
        """Make the calls, one after the other."""
        fn = self._function()
        outcomes = [(None, fn) if isinstance(fn, Exception) else self._perform(fn, call) for call in self._calls]
        return Response(outcomes, by_value=self._by_value)

    def _function(self) -> "_Callable | Exception":
        if isinstance(self._fn, ConfigError):
            return self._fn
        try:
            return _Callable(_unpack(self._fn, 1)[0])
        except _ItemError as error:
            return TransferError(
                f"{self._name} cannot be unpickled by the worker: {_why(error.__cause__)}; "
                "its module must be importable there",
                "function",
            )

    def _perform(self, fn: "_Callable", call: PackedCall | TransferError) -> Outcome:
        if isinstance(call, TransferError):
            return None, call
        data, positional, names, origin = call
        try:
            values = _unpack(data, positional + len(names))
        except _ItemError as error:
            which = _argument(fn.fn, error.position, positional, names)
            message = f"{which} of {self._name} cannot be unpickled by the worker: {_why(error.__cause__)}"
            return None, TransferError(message, "argument")
        kwargs = dict(zip(names, values[positional:], strict=True))
        return fn.call(tuple(values[:positional]), kwargs, origin)


@final
class Response:
    """The outcomes of the calls of a request, in order."""

    __slots__ = ("_by_value", "outcomes")

    def __init__(self, outcomes: list[Outcome], *, by_value: bool) -> None:
        self.outcomes = outcomes
        self._by_value = by_value

    def __repr__(self) -> str:
        return f"<Response: {len(self.outcomes)} outcomes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack_response, ([self._pack(*outcome) for outcome in self.outcomes],)

    def _pack(self, result: object, error: BaseException | None) -> "bytes | PackedError":
        if error is None:
            try:
                return _pack([result], by_value=self._by_value)
            except _ItemError as problem:
                error = TransferError(
                    f"the result, a {type(result).__name__}, cannot be pickled: {_why(problem.__cause__)}; "
                    "return something that can be pickled, such as data",
                    "result",
                )
        notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        try:
            data = _pack(_taken_apart(error), by_value=self._by_value)
        except _ItemError as problem:
            return None, one_line(describe_error(error)), type(error).__name__, _why(problem.__cause__), notes
        return data, one_line(describe_error(error)), type(error).__name__, "", notes


PackedError = tuple[bytes | None, str, str, str, list[str]]
"""The error, or None; its message and type; why it could not be pickled; its notes."""


def perform(request: Request | PackedRequest) -> Response:
    """Make the calls of `request`: the function that is submitted to an executor."""
    return request.perform()


def unpicklable(fn: object, error: Exception) -> ConfigError:
    """Return the error for a function that cannot be sent to another process."""
    message = (
        f"fn must be a function that pickle can import by name, defined with def at the top level of a module, "
        f"got {name_of(fn)}: {_why(error.__cause__ if isinstance(error, _ItemError) else error)}; "
        "lambdas and inner functions work with threads, loky and Dask"
    )
    # Without the value: this error may have to be pickled.
    return ConfigError(message, field="fn")


def check_importable(fn: Callable[..., Any]) -> None:
    """Require a function that pickle can import by name.

    Raises:
        ConfigError: `fn` is a lambda, or was defined inside another function.
    """
    while isinstance(fn, partial):
        fn = fn.func  # its arguments may be large
    if isinstance(fn, FunctionType):
        try:
            pickle.dumps(fn)
        except Exception as error:
            raise unpicklable(fn, error) from error


def name_of(fn: object) -> str:
    """Return the name of `fn` for messages."""
    while isinstance(fn, partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None)
    return one_line(name) if isinstance(name, str) else f"a {type(fn).__name__}"


def _unpack_response(packed: list["bytes | PackedError"]) -> Response:
    return Response([_unpack_outcome(outcome) for outcome in packed], by_value=False)


def _unpack_outcome(packed: "bytes | PackedError") -> Outcome:
    if isinstance(packed, bytes):
        try:
            return _unpack(packed, 1)[0], None
        except _ItemError as error:
            return None, TransferError(f"the result cannot be unpickled here: {_why(error.__cause__)}", "result")
    data, message, kind, why, notes = packed
    failure: BaseException
    try:
        failure = _as_error(data, why)
    except _ItemError as error:
        what = f"the call failed with {kind} ({message}), an error that cannot be"
        where = "pickled" if data is None else "unpickled here"
        failure = TransferError(f"{what} {where}: {_why(error.__cause__)}", "error")
    for note in notes:
        if note not in getattr(failure, "__notes__", ()):
            failure.add_note(note)
    return None, failure


def _as_error(data: bytes | None, why: str) -> BaseException:
    if data is None:
        raise _ItemError(0) from pickle.PicklingError(why)
    make, args, state = _unpack(data, 3)
    try:
        error = make(*args)
        if state is not None:
            error.__setstate__(state)
    except Exception as problem:
        raise _ItemError(0) from problem
    if not isinstance(error, BaseException):
        raise _ItemError(0) from TypeError(f"it comes back as a {type(error).__name__}")
    return error


def _taken_apart(error: BaseException) -> tuple[Any, Any, Any]:
    """Return the reduction of `error`, as pickle itself would compute it.

    Dask replaces pickle's reduction of exceptions, for the whole process, with one that includes tracebacks and
    causes, and loses the code of a `SystemExit`.
    """
    try:
        make, args, *state = cast("tuple[Any, ...]", error.__reduce_ex__(_PROTOCOL))
    except Exception as problem:
        raise _ItemError(0) from problem
    return make, args, state[0] if state else None


# One call, in the worker.


@final
class _Callable:
    """The function of a request, in the worker."""

    __slots__ = ("_is_async", "fn")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self._is_async = is_async(fn)  # once for all calls: it takes longer than the rest of a call

    def __repr__(self) -> str:
        return f"<_Callable {name_of(self.fn)}>"

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], origin: Origin) -> Outcome:
        """Make one call, in its own context: the next one does not see what it sets."""
        try:
            return copy_context().run(self._call, args, kwargs, origin), None
        except BaseException as error:  # noqa: BLE001, ASYNC103 - raised again where the caller waits
            _note_traceback(error)
            return None, error  # noqa: ASYNC104 - the same

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], origin: Origin) -> Any:
        fields, headers = origin
        working.set(_Elsewhere(fields))
        attach_headers(headers)
        if self._is_async:
            return trio.run(partial(self.fn, *args, **kwargs))
        result = self.fn(*args, **kwargs)
        return trio.run(_await, result) if inspect.iscoroutine(result) else result


async def _await(coroutine: Any) -> Any:
    return await coroutine


def _note_traceback(error: BaseException) -> None:
    """Add the traceback of `error` as a note, and drop the frames that it refers to."""
    shown = _of_the_user(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, shown))
    error.__traceback__ = None
    error.add_note(f"remote traceback:\n{text.rstrip()}")


def _of_the_user(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_globals.get("__name__") == __name__:
        frames = frames.tb_next
    return frames


@final
class _Elsewhere:
    """The source of `current_run` in the worker: the same fields, of a run that is elsewhere."""

    __slots__ = ("_fields",)

    def __init__(self, fields: tuple[Any, ...] | None) -> None:
        self._fields = fields

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.in_hand().run_id

    @property
    def worker(self) -> None:
        """None: the run's workers are elsewhere."""

    @property
    def emitter(self) -> None:
        """Nobody there takes events."""

    def in_hand(self) -> WorkInHand:
        """Return the piece of work for which the call is made."""
        if self._fields is None:
            raise nothing_in_hand()
        return WorkInHand(*self._fields)


def origin_of_call() -> Origin:
    """Return the origin of a call that is made here."""
    return _fields_of_current_run(), current_headers()


def _fields_of_current_run() -> tuple[Any, ...] | None:
    """Return the fields of the `WorkInHand`; None outside a run."""
    work = working.get(None)
    if work is None:
        return None
    try:
        return tuple(work.in_hand())
    except RuntimeError:
        return None  # between two calls of the run


# Pickling and unpickling of values, one by one.


class _ItemError(Exception):
    """The value at a position could not be packed or unpacked; from pickle's error."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def _pack(values: Sequence[object], *, by_value: bool) -> bytes:
    if len(values) == 1 and not by_value:
        return _pack_one(values[0])
    buffer = io.BytesIO()
    # One pickler for all: an object shared by several arguments is pickled once, and is shared on the other side.
    pickler = _by_value(buffer) if by_value else pickle.Pickler(buffer, _PROTOCOL)
    for position, value in enumerate(values):
        try:
            pickler.dump(value)
        except Exception as error:
            raise _ItemError(position) from error
    return buffer.getvalue()


def _pack_one(value: object) -> bytes:
    """Do what `_pack` does for a single argument, which most calls have, in a sixth of the time."""
    try:
        return pickle.dumps(value, _PROTOCOL)
    except Exception as error:
        raise _ItemError(0) from error


def _by_value(buffer: io.BytesIO) -> pickle.Pickler:
    import cloudpickle  # noqa: PLC0415 - comes with the executors that need it

    pickler: pickle.Pickler = cloudpickle.Pickler(buffer, _PROTOCOL)
    return pickler


def _unpack(data: bytes, count: int) -> list[Any]:
    if count == 1:
        try:
            return [pickle.loads(data)]  # noqa: S301 - as below
        except Exception as error:
            raise _ItemError(0) from error
    unpickler = pickle.Unpickler(io.BytesIO(data))  # noqa: S301 - from this program, or from its own workers
    values: list[Any] = []
    for position in range(count):
        try:
            values.append(unpickler.load())
        except Exception as error:
            raise _ItemError(position) from error
    return values


def _argument(fn: object, position: int, positional: int, names: Sequence[str]) -> str:
    """Return how a message names an argument: by its name, if known."""
    if position >= positional:
        return f"argument {quote(names[position - positional])}"
    try:
        parameters = list(inspect.signature(fn).parameters.values())  # type: ignore[arg-type]  # it is callable
        parameter = parameters[position]
    except (IndexError, TypeError, ValueError):
        return f"argument {position + 1}"
    if parameter.kind in {parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD}:
        return f"argument {position + 1}"
    return f"argument {quote(parameter.name)}"


def _why(error: BaseException | None) -> str:
    return one_line(describe_error(error)) if error is not None else "no cause is known"

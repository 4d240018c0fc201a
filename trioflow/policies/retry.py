"""Retries of a failed call with exponential back-off; tenacity runs the loop.

The first attempt runs without tenacity, whose loop costs more than the rest of an item, and most calls succeed.
If it fails, the loop starts by raising its error. No reference cycle outlives the call: an error's traceback
refers to the frames that it passed through, so whatever those frames can reach drops the error at the end.

A `Cancelled` that interrupts the delay between two attempts has the previous error as its `__cause__`, so that a
`TooSlowError` made from it can report what was being retried.
"""

import inspect
import math
import random
from collections.abc import Awaitable, Callable
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, final
from weakref import WeakKeyDictionary

import msgspec
import trio

from trioflow.config.checks import (
    check_async,
    check_callable,
    check_in_trio,
    check_instance,
    check_number,
    is_async,
)
from trioflow.config.structs import RetryConfig
from trioflow.errors import ConfigError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ("OnRetry", "RetryOn", "RetryPlan", "retry_of", "with_retry")

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT = RetryConfig()

OnRetry = Callable[[int, float, Exception], None]
"""Called with the number of the attempt that failed, the seconds until the next one, and the error."""

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]
"""What is retried: errors of these types, or those for which a plain function returns something true."""

_plans: WeakKeyDictionary[Callable[..., Any], "RetryPlan"] = WeakKeyDictionary()


def with_retry(
    fn: Callable[P, Awaitable[R]],
    config: RetryConfig = _DEFAULT,
    on: RetryOn = Exception,
    delay: Callable[[Exception], float | None] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Wrap `fn` so that failed calls are retried: those that raise `on`, while attempts are left.

    The last error is raised unchanged. If the wrapper is a run's processor, its attempts count as the item's, and
    each retry emits a `task.retry` event.

    Args:
        fn: an async function.
        config: how many attempts, for how long, and how the delays grow.
        on: the exception type or types to retry, or a predicate of the error.
        delay: a plain function of the error that returns the seconds to wait, such as a server's `Retry-After`,
            in place of the back-off and without its cap; a negative number is 0. Without one, or if it returns
            None, the back-off applies.

    Raises:
        ConfigError: `fn` is not async, or an argument is of the wrong kind; from the wrapper, raised
            from the call's error, if `delay` or `on` returns something that it must not.

    Cancellation: passes through; `trio.Cancelled` is never retried.
    """
    check_async("fn", fn)
    check_instance("config", config, RetryConfig)
    check_callable("delay", delay, optional=True)
    _check_on(on)
    plan = RetryPlan(config, on, delay)

    @wraps(fn)
    async def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        check_in_trio()
        return await plan.run(lambda: fn(*args, **kwargs), None)

    _plans[retried] = plan
    return retried


class RetryPlan(msgspec.Struct, frozen=True):
    """What is retried, how often and after which delays; see `with_retry`."""

    config: RetryConfig
    on: RetryOn = Exception
    delay: Callable[[Exception], float | None] | None = None

    async def run(self, attempt: Callable[[], Awaitable[R]], on_retry: OnRetry | None) -> R:
        """Call `attempt`, retry it by this plan, and call `on_retry` before each retry.

        Cancellation: passes through; if it interrupts a delay, its cause is the last error.
        """
        limit = self.config.total_timeout
        deadline = None if limit is None else trio.current_time() + limit
        try:
            return await attempt()
        except Exception as error:
            if self.config.max_attempts == 1 or not self.retries(error):
                raise
            repeats = _Repeats(self, attempt, on_retry, error, deadline)
        import tenacity  # noqa: PLC0415 - only a retry needs it

        loop = tenacity.AsyncRetrying(
            sleep=repeats.sleep,
            stop=repeats.stop,
            wait=repeats.wait,
            retry=tenacity.retry_if_exception(repeats.retries),
            before=repeats.begin,
            before_sleep=repeats.report,
            retry_error_callback=repeats.give_up,
        )
        try:
            return await loop(repeats.next)
        finally:
            repeats.end()
            # The actions that tenacity stores for its next step refer to the loop: break the cycle.
            loop.iter_state.reset()

    def retries(self, error: BaseException) -> bool:
        """Whether `error` is to be retried.

        Raises:
            ConfigError: the predicate returns an awaitable. Like what the predicate raises, from `error`.
        """
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        if not isinstance(error, Exception):
            return False
        answer = _call_with(error, self.on)
        if isinstance(answer, Awaitable):
            raise _refusal("on", answer, "a plain function, one that returns no awaitable") from error
        return bool(answer)

    def seconds_before(self, attempt: int, error: Exception) -> float:
        """Return the seconds to wait after attempt number `attempt`, from 1, failed with `error`.

        Raises:
            ConfigError: `delay` returns something other than seconds. Like what `delay` raises, from `error`.
        """
        config = self.config
        wanted = None if self.delay is None else _call_with(error, self.delay)
        if wanted is not None:
            allowed = "a function that returns a finite number of seconds or None (the back-off)"
            try:
                check_number("delay", wanted, allowed=allowed, least="any")
            except ConfigError as refused:
                raise refused from error
            return max(0.0, float(wanted))
        try:
            grown = config.initial_delay * math.pow(config.multiplier, attempt - 1)
        except OverflowError:
            grown = config.max_delay
        backoff = min(grown, config.max_delay)
        return backoff * random.uniform(0.5, 1.0) if config.jitter else backoff  # noqa: S311 - spread, not secrecy


@final
class _Repeats(Generic[R]):
    """The attempts of one call after the first has failed: the callbacks of tenacity's loop."""

    __slots__ = ("_attempt", "_deadline", "_last", "_late", "_on_retry", "_plan", "_replay", "_state")

    def __init__(
        self,
        plan: RetryPlan,
        attempt: Callable[[], Awaitable[R]],
        on_retry: OnRetry | None,
        first: Exception,
        deadline: float | None,
    ) -> None:
        self._plan = plan
        self._attempt = attempt
        self._on_retry = on_retry
        self._last: Exception | None = first
        self._replay = True
        self._deadline = math.inf if deadline is None else deadline
        self._late = False
        self._state: RetryCallState | None = None

    def begin(self, state: "RetryCallState") -> None:
        self._state = state

    async def next(self) -> R:
        if self._replay and self._last is not None:
            self._replay = False
            raise self._last
        if self._passed(0.0) and self._last is not None:
            # The timer fired after the deadline: the last error stands.
            self._late = True
            raise self._last
        return await self._attempt()

    def retries(self, error: BaseException) -> bool:
        # Whether to retry the first error was decided before the loop started.
        return not self._late and (error is self._last or self._plan.retries(error))

    def stop(self, state: "RetryCallState") -> bool:
        return state.attempt_number >= self._plan.config.max_attempts or self._passed(state.upcoming_sleep)

    def _passed(self, seconds: float) -> bool:
        """Whether an attempt that starts in `seconds` would start after the deadline."""
        return self._deadline < math.inf and trio.current_time() + seconds >= self._deadline

    def wait(self, state: "RetryCallState") -> float:
        self._last = _error_of(state)
        if state.attempt_number >= self._plan.config.max_attempts:
            return 0.0
        return self._plan.seconds_before(state.attempt_number, self._last)

    def report(self, state: "RetryCallState") -> None:
        if self._on_retry is not None:
            self._on_retry(state.attempt_number, state.upcoming_sleep, _error_of(state))

    async def sleep(self, seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled as cancelled:
            raise cancelled from self._last

    def give_up(self, state: "RetryCallState") -> R:
        raise _error_of(state)

    def end(self) -> None:
        """Drop the errors: the frames in their tracebacks refer to this object."""
        self._last = None
        if self._state is not None:
            self._state.outcome = None
            self._state = None


def retry_of(fn: Callable[..., Any]) -> tuple[Callable[..., Awaitable[Any]], RetryPlan] | None:
    """Return what `with_retry` wrapped as `fn`, and its plan, so that a run can count the attempts."""
    plan = _plans.get(fn) if isinstance(fn, FunctionType) else None
    return None if plan is None else (vars(fn)["__wrapped__"], plan)


def _error_of(state: "RetryCallState") -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception):
        raise TypeError(f"tenacity retries an attempt that did not fail: {state}")
    return error


def _call_with(error: Exception, fn: Callable[[Exception], Any]) -> Any:
    """Call the user's `fn` with `error`; what it raises is raised from `error`."""
    try:
        return fn(error)
    except Exception as raised:
        if raised is error:
            raise
        raise raised from error
    finally:
        # The traceback of what was raised refers to this frame.
        del error


def _refusal(field: str, value: object, allowed: str) -> ConfigError:
    if inspect.iscoroutine(value):
        value.close()
    return ConfigError.refusing(field, value, allowed)


def _check_on(on: object) -> None:
    types = on if isinstance(on, tuple) else (on,)
    if types and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        return
    if isinstance(on, type | tuple) or not callable(on) or is_async(on):
        allowed = "a subclass of Exception, a tuple of such, or a plain function of the error (def, not async def)"
        raise ConfigError.refusing("on", on, allowed)

"""A failed call repeated, with growing delays; tenacity runs the loop.

The first attempt runs without tenacity: its loop costs more than the rest of an item, and most calls succeed.
The loop then begins with the error that the first attempt had. Nothing of it outlives the call: an error holds
the frames that it came through, so whatever those frames can reach lets go of the error in the end.

A `Cancelled` that cuts the wait between two attempts has the failure before it as its `__cause__`: whoever turns
it into a `TooSlowError` can so say what was being retried.
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
"""What is retried: errors of these types, or those for which a plain function gives something true."""

_plans: WeakKeyDictionary[Callable[..., Any], "RetryPlan"] = WeakKeyDictionary()


def with_retry(
    fn: Callable[P, Awaitable[R]],
    config: RetryConfig = _DEFAULT,
    on: RetryOn = Exception,
    delay: Callable[[Exception], float | None] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Return `fn` repeated until it succeeds, fails with something else than `on`, or has had its attempts.

    The last error comes out as it is. Where a run's processor was made by this function, each of its attempts
    counts as one of the item, and each retry is a `task.retry` event.

    Args:
        fn: an async function.
        config: how many attempts, for how long, and how the delays grow.
        on: the exception type or types to retry, or a plain function of the error that says whether to.
        delay: a function of the error that says how many seconds to wait, such as a server's `Retry-After`;
            it replaces the back-off, without the cap. None, or its None, leaves the back-off; below 0 is 0.

    Raises:
        ConfigError: `fn` is not async, or an argument is of the wrong kind; by the returned function, from the
            error in question, where `delay` or `on` gives what it must not.

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
        """Call `attempt` by this plan, and call `on_retry` before each retry.

        Cancellation: passes through; where it cuts a wait, its cause is the last failure.
        """
        limit = self.config.total_timeout
        deadline = None if limit is None else trio.current_time() + limit
        try:
            return await attempt()
        except Exception as error:
            if self.config.max_attempts == 1 or not self.retries(error):
                raise
            repeats = _Repeats(self, attempt, on_retry, error, deadline)
        import tenacity  # noqa: PLC0415 - only those who retry pay for it

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
            # The actions that tenacity keeps for its next step hold the loop that holds them.
            loop.iter_state.reset()

    def retries(self, error: BaseException) -> bool:
        """Whether `error` is one to retry.

        Raises:
            ConfigError: the predicate gives an awaitable; from `error`, as is what it raises.
        """
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        if not isinstance(error, Exception):
            return False
        answer = _asked(self.on, error)
        if isinstance(answer, Awaitable):
            raise _refusal("on", answer, "a plain function, one that gives no awaitable") from error
        return bool(answer)

    def seconds_before(self, attempt: int, error: Exception) -> float:
        """Return how long to wait after `error` of the attempt number `attempt`, from 1.

        Raises:
            ConfigError: `delay` gives what is no number of seconds; from `error`, as is what it raises.
        """
        config = self.config
        wanted = None if self.delay is None else _asked(self.delay, error)
        if wanted is not None:
            allowed = "a function that gives a finite number of seconds or None (the back-off)"
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
    """The attempts of one call after its first failure: what tenacity asks and calls."""

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
            # The timer woke late: the last failure stands.
            self._late = True
            raise self._last
        return await self._attempt()

    def retries(self, error: BaseException) -> bool:
        # The first failure was decided on before the loop began.
        return not self._late and (error is self._last or self._plan.retries(error))

    def stop(self, state: "RetryCallState") -> bool:
        return state.attempt_number >= self._plan.config.max_attempts or self._passed(state.upcoming_sleep)

    def _passed(self, seconds: float) -> bool:
        """Whether an attempt after `seconds` would begin when the time for all of them is up."""
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
        """Let go of the errors: the frames that their tracebacks hold lead here."""
        self._last = None
        if self._state is not None:
            self._state.outcome = None
            self._state = None


def retry_of(fn: Callable[..., Any]) -> tuple[Callable[..., Awaitable[Any]], RetryPlan] | None:
    """Return what `with_retry` made `fn` of, if it did: so a run can count and report the attempts."""
    plan = _plans.get(fn) if isinstance(fn, FunctionType) else None
    return None if plan is None else (vars(fn)["__wrapped__"], plan)


def _error_of(state: "RetryCallState") -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception):
        raise TypeError(f"tenacity waits after an attempt that did not fail: {state}")
    return error


def _asked(fn: Callable[[Exception], Any], error: Exception) -> Any:
    """Ask the user's `fn` about `error`; what it raises is reported from that."""
    try:
        return fn(error)
    except Exception as raised:
        if raised is error:
            raise
        raise raised from error
    finally:
        # What was raised holds this frame.
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

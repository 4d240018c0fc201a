"""A processor that is scripted, item by item and attempt by attempt, and records its calls.

It is an async function of one argument, so it can be a processor, a node, a handler of a hub or of a route. Time
is Trio's: under a `MockClock` with autojump, a delay of an hour takes no time.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import msgspec
import trio

from trioflow.config.checks import check_callable, check_seconds
from trioflow.errors import ConfigError

__all__ = ("Answer", "ScriptedCall", "ScriptedProcessor")


class Answer(msgspec.Struct, frozen=True):
    """The scripted outcome of a call with a delay."""

    result: Any = None
    """The return value, if there is no error."""
    error: Exception | type[Exception] | None = None
    """The exception to raise; None returns."""
    delay: float = 0.0
    """Seconds before the outcome, by Trio's clock."""


class ScriptedCall(msgspec.Struct, frozen=False, kw_only=True):
    """One call of a `ScriptedProcessor`."""

    item: Any
    """The argument of the call."""
    attempt: int
    """The number of the call with this item, from 1."""
    started: float
    """When it started, by Trio's clock."""
    ended: float | None = None
    """When it ended; None while it is running."""
    status: Literal["running", "ok", "error", "cancelled"] = "running"
    """How it ended."""


@final
class ScriptedProcessor:
    """An async function whose answers are scripted.

    ::

        fetch = ScriptedProcessor({
            "a": [ConnectionError("down"), "up"],  # first call, and all later ones
            "b": ValueError("bad"),
            "c": Answer("late", delay=60),
        })

    An answer is a result to return, an exception or exception type to raise, or an `Answer` with a delay. An item
    that is not in the script is returned unchanged.

    Args:
        script: the answers by item, where a list has the answers of successive attempts, the last one for all
            further ones; or a plain function of the item and the attempt that returns the answer.
        delay: seconds that each call takes in addition to the delay of its answer.

    Attributes:
        calls: the calls, in the order in which they started.
        running: the number of running calls.
        most_at_once: the highest number of concurrent calls.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self, script: Mapping[Any, Any] | Callable[[Any, int], Any] | None = None, *, delay: float = 0.0
    ) -> None:
        if not isinstance(script, Mapping):
            check_callable("script", script, optional=True)
        elif any(isinstance(answers, list) and not answers for answers in script.values()):
            raise ConfigError.refusing("script", script, "at least one answer for each item")
        if delay != 0:
            check_seconds("delay", delay, optional=False)
        self._script = {} if script is None else script
        self._delay = delay
        self._attempts: Counter[object] = Counter()
        self.calls: list[ScriptedCall] = []
        self.running: int = 0
        self.most_at_once: int = 0

    def __repr__(self) -> str:
        return f"<ScriptedProcessor: {len(self.calls)} calls, {self.running} running>"

    @property
    def items(self) -> list[Any]:
        """The arguments of the calls, in the order in which they started."""
        return [call.item for call in self.calls]

    async def __call__(self, item: Any) -> Any:
        """Return or raise the scripted answer.

        Cancellation: a checkpoint; the call is recorded as cancelled.
        """
        call = self._begin(item)
        try:
            answer = self._answer(item, call.attempt)
            await trio.sleep(self._delay + answer.delay)
            if answer.error is not None:
                raise answer.error  # noqa: TRY301 - recorded below like any other error
        except trio.Cancelled:
            call.status = "cancelled"
            raise
        except Exception:
            call.status = "error"
            raise
        else:
            call.status = "ok"
            return answer.result
        finally:
            call.ended = trio.current_time()
            self.running -= 1

    def _begin(self, item: Any) -> ScriptedCall:
        key = _key(item)
        self._attempts[key] += 1
        call = ScriptedCall(item=item, attempt=self._attempts[key], started=trio.current_time())
        self.calls.append(call)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        return call

    def _answer(self, item: Any, attempt: int) -> Answer:
        script = self._script
        if isinstance(script, Mapping):
            answer = script.get(item, item) if _is_hashable(item) else item
            if isinstance(answer, list) and answer is not item:
                answer = answer[min(attempt, len(answer)) - 1]
        else:
            answer = script(item, attempt)
        if isinstance(answer, Answer):
            return answer
        if isinstance(answer, Exception) or (isinstance(answer, type) and issubclass(answer, Exception)):
            return Answer(error=answer)
        return Answer(answer)


def _key(item: object) -> object:
    # The calls refer to their items, so an id is never reused.
    return item if _is_hashable(item) else id(item)


def _is_hashable(item: object) -> bool:
    try:
        hash(item)
    except TypeError:
        return False
    return True

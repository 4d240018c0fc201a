"""How a retry tells the run it happens in: through the context that the run's worker set.

A processor wrapped by the user and one wrapped by the config then count alike. Outside a run nobody listens.
"""

from collections.abc import Callable
from contextvars import ContextVar

__all__ = ("OnRetry", "current_on_retry")

OnRetry = Callable[[int, float, Exception], None]
"""Called with the number of the attempt that failed, the seconds until the next one, and the error."""

current_on_retry: ContextVar[OnRetry | None] = ContextVar("current_on_retry", default=None)

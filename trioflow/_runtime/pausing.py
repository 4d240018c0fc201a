"""What a pause is to the patterns that it passes through: neither a failure nor a cancellation."""

from typing import Any

__all__ = ("Paused",)


class Paused(BaseException):
    """A node asked for a pause: no `Exception`, so that nothing retries it or takes it for a failure."""

    def __init__(self, payload: Any) -> None:
        super().__init__()
        self.payload = payload

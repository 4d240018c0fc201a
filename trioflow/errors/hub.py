"""Failures of messages: whose, and what became of it."""

from trioflow._text import quote
from trioflow.errors.tree import PlacedError, TrioflowError

__all__ = (
    "AgentGoneError",
    "HandlerError",
    "HubClosedError",
    "HubError",
    "MailboxFullError",
    "RequestTimeoutError",
    "UnknownAgentError",
)


class HubError(TrioflowError):
    """The root of what a hub raises."""


class _AgentError(HubError):
    """A failure that is about one agent.

    Attributes:
        agent: its name.
    """

    def __init__(self, message: str, *, agent: str = "") -> None:
        super().__init__(message)
        self.agent = agent


class UnknownAgentError(_AgentError, LookupError):
    """No agent of this name is registered; the message names those that are, near misses first."""


class MailboxFullError(_AgentError):
    """The mailbox was full, or did not get room in time; nothing was delivered."""


class AgentGoneError(_AgentError):
    """The agent was unregistered before it had answered, or taken the message."""


class RequestTimeoutError(_AgentError, TimeoutError):
    """There was no answer in time; one that comes late is dropped.

    Attributes:
        timeout: the seconds that were waited.
    """

    def __init__(self, message: str, *, agent: str = "", timeout: float = 0.0) -> None:
        super().__init__(message, agent=agent)
        self.timeout = timeout


class HubClosedError(HubError):
    """The block of the hub has been left."""


class HandlerError(PlacedError, HubError):
    """The agent's handler failed; the `__cause__` is what it raised.

    Attributes:
        agent: the agent's name.
        message_id: which message it was given.
    """

    def __init__(self, agent: str, message_id: str) -> None:
        super().__init__(agent, message_id)
        self.agent = agent
        self.message_id = message_id

    def _place(self) -> str:
        return f"agent {quote(self.agent)} failed"

"""Exceptions of a hub."""

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
    """Base of the errors of a hub."""


class _AgentError(HubError):
    """An error that concerns one agent.

    Attributes:
        agent: the agent's name.
    """

    def __init__(self, message: str, *, agent: str = "") -> None:
        super().__init__(message)
        self.agent = agent


class UnknownAgentError(_AgentError, LookupError):
    """No agent of this name is registered; the message lists those that are, near misses first."""


class MailboxFullError(_AgentError):
    """The mailbox was full, or had no room in time; nothing was delivered."""


class AgentGoneError(_AgentError):
    """The agent was unregistered before it answered, or before it accepted the message."""


class RequestTimeoutError(_AgentError, TimeoutError):
    """No answer arrived in time; a late one is dropped.

    Attributes:
        timeout: how long the request waited, in seconds.
    """

    def __init__(self, message: str, *, agent: str = "", timeout: float = 0.0) -> None:
        super().__init__(message, agent=agent)
        self.timeout = timeout


class HubClosedError(HubError):
    """The hub's block has been left."""


class HandlerError(PlacedError, HubError):
    """The agent's handler failed; the `__cause__` is what it raised.

    Attributes:
        agent: the agent's name.
        message_id: the id of the message that it was handling.
    """

    def __init__(self, agent: str, message_id: str) -> None:
        super().__init__(agent, message_id)
        self.agent = agent
        self.message_id = message_id

    def _place(self) -> str:
        return f"agent {quote(self.agent)} failed"

"""Agents that talk: a hub carries messages between handlers, for as long as its block lasts."""

from trioflow.hub._account import HubMetrics
from trioflow.hub._block import open_hub
from trioflow.hub.hub import Hub
from trioflow.hub.message import Message, MessageType, Priority

__all__ = ("Hub", "HubMetrics", "Message", "MessageType", "Priority", "open_hub")

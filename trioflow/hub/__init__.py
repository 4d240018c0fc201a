"""Agents that exchange messages: a hub delivers them to the agents' handlers while its block is open."""

from trioflow.hub._ledger import HubMetrics
from trioflow.hub.gather import gather_requests
from trioflow.hub.hub import Hub, open_hub
from trioflow.hub.message import Message, MessageType, Priority

__all__ = ("Hub", "HubMetrics", "Message", "MessageType", "Priority", "gather_requests", "open_hub")

"""Who is on a hub: agents by their names, and by the topics that they have subscribed to."""

from collections.abc import Callable, Iterator
from typing import final

from trioflow._text import list_known, quote
from trioflow.config.checks import check_async, check_text
from trioflow.errors import AgentGoneError, ConfigError, HubError, UnknownAgentError
from trioflow.hub._agent import Agent
from trioflow.hub._handlers import Handler
from trioflow.hub._state import HubState


@final
class Directory:
    """The agents of one hub.

    Args:
        hub: its name.
    """

    __slots__ = ("_agents", "_hub", "_topics")

    def __init__(self, hub: str) -> None:
        self._hub = hub
        self._agents: dict[str, Agent] = {}
        self._topics: dict[str, dict[str, Agent]] = {}

    def __repr__(self) -> str:
        return f"<Directory of {self._hub}: {len(self)} agents>"

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def add(self, name: str, handler: Handler, state: HubState) -> None:
        """Add an agent, refusing a name that is empty or taken and a handler that is none."""
        check_text("agent", name)
        check_async("handler", handler)
        if name in self._agents:
            raise ConfigError.refusing("agent", name, f"a name that is free on hub {quote(self._hub)}")
        self._agents[name] = Agent(name, handler, state)

    def remove(self, name: str) -> None:
        """Take an agent out, and tell whoever waits for it."""
        agent = self.find(name)
        del self._agents[name]
        for topic in agent.topics:
            self._unlist(name, topic)
        message = f"agent {quote(name)} was unregistered from hub {quote(self._hub)}"
        agent.leave(lambda: AgentGoneError(message, agent=name))

    def dismiss(self, why: Callable[[], HubError]) -> None:
        """Tell whoever waits for any agent that it is over."""
        for agent in self:
            agent.leave(why)

    def find(self, name: str) -> Agent:
        """Return the agent of this name, or say which ones there are."""
        given: object = name
        agent = self._agents.get(given) if isinstance(given, str) else None
        if agent is None:
            message = f"there is no agent {quote(name)} on hub {quote(self._hub)} {list_known(name, self._agents)}"
            raise UnknownAgentError(message, agent=name)
        return agent

    def subscribe(self, name: str, topic: str) -> None:
        """List the agent under `topic`."""
        agent = self.find(name)
        check_text("topic", topic)
        self._topics.setdefault(topic, {})[name] = agent
        agent.topics.add(topic)

    def unsubscribe(self, name: str, topic: str) -> None:
        """List the agent under `topic` no more."""
        agent = self.find(name)
        check_text("topic", topic)
        if topic in agent.topics:
            agent.topics.remove(topic)
            self._unlist(name, topic)

    def subscribers(self, topic: str) -> list[Agent]:
        """Return the agents that are listed under `topic`."""
        check_text("topic", topic)
        return list(self._topics.get(topic, {}).values())

    def _unlist(self, name: str, topic: str) -> None:
        subscribers = self._topics[topic]
        del subscribers[name]
        if not subscribers:
            del self._topics[topic]

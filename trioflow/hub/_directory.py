"""The agents of a hub by name, and by the topics that they have subscribed to."""

from collections.abc import Iterator
from typing import final

from trioflow._text import list_known, quote
from trioflow.config.checks import check_text
from trioflow.errors import AgentGoneError, ConfigError, UnknownAgentError
from trioflow.hub._agent import Agent

COMPARED = 1_000
"""The most agents whose names are compared for near misses, at about 30 µs each."""


@final
class Directory:
    """The agents of one hub.

    Args:
        hub: the hub's name.
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

    def check_free(self, name: str) -> None:
        """Require a name that is neither empty nor taken."""
        check_text("agent", name)
        if name in self._agents:
            raise ConfigError.refusing("agent", name, f"a name that is free on hub {quote(self._hub)}")

    def add(self, agent: Agent) -> None:
        """Add an agent under its name."""
        self._agents[agent.name] = agent

    def remove(self, agent: Agent) -> None:
        """Remove an agent, and reject everything that waits for it."""
        del self._agents[agent.name]
        for topic in agent.topics:
            self._unlist(agent.name, topic)
        message = f"agent {quote(agent.name)} was unregistered from hub {quote(self._hub)}"
        agent.leave(lambda: AgentGoneError(message, agent=agent.name))

    def find(self, name: str) -> Agent:
        """Return the agent of this name, or raise an error that lists the known ones."""
        given: object = name
        agent = self._agents.get(given) if isinstance(given, str) else None
        if agent is None:
            known = list_known(name, self._agents) if len(self) <= COMPARED else f"({len(self):,} are known)"
            message = f"there is no agent {quote(name)} on hub {quote(self._hub)} {known}"
            raise UnknownAgentError(message, agent=name)
        return agent

    def find_accepting(self, name: str) -> Agent:
        """Return the agent of this name, if it accepts messages."""
        agent = self.find(name)
        if not agent.accepting:
            raise AgentGoneError(f"agent {quote(name)} is retiring from hub {quote(self._hub)}", agent=name)
        return agent

    def subscribe(self, name: str, topic: str) -> None:
        """Add the agent to the subscribers of `topic`."""
        agent = self.find(name)
        check_text("topic", topic)
        self._topics.setdefault(topic, {})[name] = agent
        agent.topics.add(topic)

    def unsubscribe(self, name: str, topic: str) -> None:
        """Remove the agent from the subscribers of `topic`."""
        agent = self.find(name)
        check_text("topic", topic)
        if topic in agent.topics:
            agent.topics.remove(topic)
            self._unlist(name, topic)

    def subscribers(self, topic: str) -> list[Agent]:
        """Return the subscribers of `topic`."""
        check_text("topic", topic)
        return list(self._topics.get(topic, {}).values())

    def _unlist(self, name: str, topic: str) -> None:
        subscribers = self._topics[topic]
        del subscribers[name]
        if not subscribers:
            del self._topics[topic]

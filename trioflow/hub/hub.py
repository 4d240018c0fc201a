"""The hub: agents register with it and exchange messages, for as long as its block lasts."""

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, Self, final

import trio

from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.config.checks import check_seconds
from trioflow.errors import HubClosedError, TrioflowError
from trioflow.events import Observer
from trioflow.hub._account import Account, HubMetrics
from trioflow.hub._agent import Ground, Handler
from trioflow.hub._delivery import Delivery, Draft
from trioflow.hub._directory import Directory
from trioflow.hub.message import Message, MessageType, Priority
from trioflow.outcomes import LiveValue

__all__ = ("Hub",)


@final
class Hub:
    """Where agents exchange messages; made by `open_hub`.

    After its block every method raises `HubClosedError`. A hub belongs to one `trio.run`.

    Attributes:
        name: its name, which its messages carry.
        live_metrics: what `metrics` returns, as a value to watch; it can be read after the block too.
    """

    __slots__ = (
        "_account",
        "_closed",
        "_config",
        "_delivery",
        "_directory",
        "_ground",
        "live_metrics",
        "name",
    )

    name: str
    live_metrics: LiveValue[HubMetrics]
    _account: Account
    _closed: bool
    _config: HubConfig
    _delivery: Delivery
    _directory: Directory
    _ground: Ground

    def __init__(self) -> None:
        raise TypeError("a Hub is made by open_hub")

    @classmethod
    def _create(cls, config: HubConfig, observer: Observer) -> Self:
        self = cls.__new__(cls)
        self.name = config.name
        self._config = config
        self._closed = False
        self._directory = directory = Directory(config.name)
        self._account = Account(config.name, observer, lambda: len(directory))
        self._ground = Ground(config, self._account, copy_context())
        self._delivery = Delivery(config, self._account)
        self.live_metrics = self._account.live
        return self

    def __repr__(self) -> str:
        return f"<Hub {self.name}: {len(self._directory)} agents, {'closed' if self._closed else self._account!r}>"

    # Who is there.

    def register(self, agent: str, handler: Handler) -> None:
        """Let `handler` be called with each message for `agent`, at most `max_handlers` of them at once.

        What it returns answers a request: data, or a `Message` made by `Message.reply`. What it raises, the
        requester gets as a `HandlerError`; the hub goes on.

        Raises:
            ConfigError: the name is empty or taken, or the handler is no async function.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.add(agent, handler, self._ground)
        self._account.live.publish()

    @trio.lowlevel.enable_ki_protection
    def unregister(self, agent: str) -> None:
        """Forget `agent` and what is in its mailbox; messages that its handler has in hand are finished.

        Those who wait for an answer of it, or for room, get `AgentGoneError` at once.

        Raises:
            UnknownAgentError: there is no such agent.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.remove(agent)
        self._account.live.publish()

    def agents(self) -> dict[str, int]:
        """Return how many messages there are in the mailbox of each agent.

        Raises:
            HubClosedError: the block has been left.
        """
        self._check_open()
        return {agent.name: agent.mailbox.depth for agent in self._directory}

    def metrics(self) -> HubMetrics:
        """Return the counts as they stand.

        Raises:
            HubClosedError: the block has been left; `live_metrics.value` still tells.
        """
        self._check_open()
        return self._account.metrics()

    def subscribe(self, agent: str, topic: str) -> None:
        """Let `agent` have what is published under `topic`; once is enough.

        Raises:
            UnknownAgentError: there is no such agent.
            ConfigError: the topic is empty.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.subscribe(agent, topic)

    def unsubscribe(self, agent: str, topic: str) -> None:
        """Let `agent` have no more of what is published under `topic`, if it had.

        Raises:
            UnknownAgentError: there is no such agent.
            ConfigError: the topic is empty.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.unsubscribe(agent, topic)

    # What they say.

    @trio.lowlevel.enable_ki_protection
    async def send(
        self,
        sender: str,
        recipient: str,
        data: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Put a message into the mailbox of `recipient`, and return whether it went there.

        `config.overflow` says what a full mailbox means: "wait" waits for room, for `config.timeout` seconds;
        "drop" drops the message and returns False; "error" raises.

        Raises:
            UnknownAgentError: there is no such agent.
            MailboxFullError: the mailbox was full, or did not get room in time.
            AgentGoneError: the agent was unregistered while this waited for room.
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        agent = self._directory.find(recipient)
        draft = self._draft(sender, MessageType.NOTIFICATION, data, priority, headers)
        return await self._delivery.send(agent, draft.to(recipient))

    @trio.lowlevel.enable_ki_protection
    async def request(
        self,
        sender: str,
        recipient: str,
        data: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a request has one, and says when it is over
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask `recipient`, and return its answer.

        Args:
            sender: who asks.
            recipient: who is asked.
            data: what is asked.
            timeout: seconds for the answer, waiting for room included; None is `config.timeout`.
            priority: whether it is handled before others.
            headers: what is said beside the data.

        Raises:
            HandlerError: the handler failed (from what it raised).
            RequestTimeoutError: there was no answer in time; a late one is dropped.
            UnknownAgentError: there is no such agent.
            MailboxFullError: the mailbox is full, and `config.overflow` is not "wait".
            AgentGoneError: the agent was unregistered.
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left, now or while this waited.

        Cancellation: the answer is dropped; the handler may have the message, and is not cancelled.
        """
        check_seconds("timeout", timeout)
        seconds = self._config.timeout if timeout is None else timeout
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._check_open()
            agent = self._directory.find(recipient)
            draft = self._draft(sender, MessageType.REQUEST, data, priority, headers)
        except TrioflowError:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        return await self._delivery.request(agent, draft.to(recipient), seconds)

    @trio.lowlevel.enable_ki_protection
    async def broadcast(
        self,
        sender: str,
        data: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send to every agent but the sender, and return to how many; a full mailbox is passed over, and counted.

        Raises:
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        draft = self._draft(sender, MessageType.BROADCAST, data, priority, headers)
        return self._delivery.spread(list(self._directory), draft)

    @trio.lowlevel.enable_ki_protection
    async def publish(
        self,
        sender: str,
        topic: str,
        data: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send to every subscriber of `topic` but the sender, and return to how many; see `broadcast`.

        Raises:
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        subscribers = self._directory.subscribers(topic)
        draft = self._draft(sender, MessageType.NOTIFICATION, data, priority, headers, topic=topic)
        return self._delivery.spread(subscribers, draft)

    def _draft(
        self,
        sender: str,
        type: MessageType,
        data: Any,
        priority: Priority,
        headers: Mapping[str, str] | None,
        *,
        topic: str | None = None,
    ) -> Draft:
        return Draft(
            hub=self.name, sender=sender, type=type, data=data, priority=priority, headers=headers, topic=topic
        )

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> HubClosedError:
        return HubClosedError(f"hub {quote(self.name)} is closed: its block has been left")

    async def _drain(self) -> None:
        """Wait until every message has been dealt with, or patience ends.

        Cancellation: passes through.
        """
        with trio.move_on_after(self._config.drain_timeout):
            await self._account.wait_until_quiet()

    def _close(self) -> None:
        self._closed = True
        self._ground.nursery.cancel_scope.cancel()
        self._directory.dismiss(self._closed_error)
        self._account.live.end()

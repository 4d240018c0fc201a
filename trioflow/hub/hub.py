"""The hub: agents register with it and exchange messages while its block is open."""

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, final

import trio
from msgspec.structs import replace

from trioflow._runtime.block import Block
from trioflow._text import quote
from trioflow.config import HubConfig
from trioflow.config.checks import check_async, check_in_trio, check_instance, check_seconds, check_text
from trioflow.errors import RequestTimeoutError, TrioflowError
from trioflow.events import EventType, Observer
from trioflow.hub._agent import Agent
from trioflow.hub._directory import Directory
from trioflow.hub._handlers import Handler
from trioflow.hub._ledger import HubMetrics, MessageLedger
from trioflow.hub._spread import spread
from trioflow.hub._state import HubState
from trioflow.hub.message import Message, MessageType, Priority, check_headers
from trioflow.observers.registry import check_observer, get_observer
from trioflow.outcomes import LiveValue

__all__ = ("Hub", "open_hub")


def open_hub(
    config: HubConfig | None = None, *, observer: Observer | None = None
) -> AbstractAsyncContextManager["Hub"]:
    """Return a context manager that opens a `Hub`.

    Leaving the block normally first lets queued and running messages be handled, for at most
    `config.drain_timeout` seconds; handlers may still send and request. Then, or at once if the block is left by
    an exception or a cancellation, the handlers are cancelled. No handler runs after the block.

    Args:
        config: the hub's name, its limits, and the name of its observer; None is `HubConfig()`.
        observer: receives the messages' events; None is the one that the config names.

    Raises:
        ConfigError: an argument is invalid.
        BaseException: a `KeyboardInterrupt`, `SystemExit` or other non-`Exception` from a handler ends the block,
            bare. What the body of the block raises is raised unchanged.

    Cancellation: passes through; every message has been counted as handled, failed or dropped.
    """
    check_instance("config", config, HubConfig, optional=True)
    config = config or HubConfig()
    given = get_observer(config.observer) if observer is None else observer
    check_observer("observer", given)
    return _HubBlock(Hub._create(config, given))  # noqa: SLF001 - only created here


@final
class Hub:
    """Delivers messages between agents; created by `open_hub`.

    After its block every method raises `HubClosedError`. A hub belongs to one `trio.run`.

    Attributes:
        name: its name, which its messages carry.
        live_metrics: the metrics as a value to wait on; it can still be read after the block.
    """

    __slots__ = ("_directory", "_ledger", "_state", "live_metrics", "name")

    name: str
    live_metrics: LiveValue[HubMetrics]
    _directory: Directory
    _ledger: MessageLedger
    _state: HubState

    def __init__(self) -> None:
        raise TypeError("a Hub is created only by open_hub")

    @classmethod
    def _create(cls, config: HubConfig, observer: Observer) -> Self:
        self = cls.__new__(cls)
        self.name = config.name
        self._directory = directory = Directory(config.name)
        self._ledger = MessageLedger(config.name, observer, lambda: len(directory))
        self._state = HubState(config, self._ledger)
        self.live_metrics = self._ledger.live
        return self

    def __repr__(self) -> str:
        state = "closed" if self._state.closed else repr(self._ledger)
        return f"<Hub {self.name}: {len(self._directory)} agents, {state}>"

    # Agents and topics.

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_handlers: int | None = None,
        buffer: int | None = None,
        handler_timeout: float | None = None,
    ) -> None:
        """Register an agent: `handler` is called with each message to `name`.

        Its return value answers a request: data, or a `Message` created by `Message.reply`. An exception reaches
        the requester as a `HandlerError`; the hub keeps running.

        Args:
            name: the agent's address.
            handler: an async function of the message.
            max_handlers: messages that it handles concurrently; None, here and below, is the hub's setting.
            buffer: messages that its mailbox holds.
            handler_timeout: seconds for one call, after which it fails with `trio.TooSlowError`.

        Raises:
            ConfigError: the name is empty or taken, the handler is not async, or a limit is invalid.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.check_free(name)
        check_async("handler", handler)
        own = {"max_handlers": max_handlers, "buffer": buffer, "handler_timeout": handler_timeout}
        given = {field: limit for field, limit in own.items() if limit is not None}
        config = replace(self._state.config, **given) if given else self._state.config
        self._directory.add(Agent(name, handler, config, self._state))
        self._ledger.live.publish()

    @trio.lowlevel.enable_ki_protection
    def unregister(self, name: str) -> None:
        """Remove an agent and discard its mailbox; running handlers finish.

        Pending requests to it, and senders that wait for room, raise `AgentGoneError` at once.

        Raises:
            UnknownAgentError: there is no such agent.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._remove(self._directory.find(name))

    @trio.lowlevel.enable_ki_protection
    async def retire(self, name: str) -> None:
        """Remove an agent once it has handled its accepted messages: a graceful `unregister`.

        It accepts no new messages: `send` and `request` raise `AgentGoneError`, `broadcast` and `publish` skip it.
        A handler must not wait for its own agent to retire.

        Raises:
            UnknownAgentError: there is no such agent.
            HubClosedError: the block has been left, before or during this call.

        Cancellation: the agent still retires when it has handled everything.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._check_open()
        agent = self._directory.find(name)
        agent.retire(lambda: self._remove(agent))
        await agent.left.wait()
        self._check_open()

    def _remove(self, agent: Agent) -> None:
        self._directory.remove(agent)
        self._ledger.live.publish()

    def agents(self) -> dict[str, int]:
        """Return the number of messages in the mailbox of each agent.

        Raises:
            HubClosedError: the block has been left.
        """
        self._check_open()
        return {agent.name: agent.mailbox.depth for agent in self._directory}

    def metrics(self) -> HubMetrics:
        """Return the current counts.

        Raises:
            HubClosedError: the block has been left; `live_metrics.value` can still be read.
        """
        self._check_open()
        return self._ledger.metrics()

    def subscribe(self, agent: str, topic: str) -> None:
        """Subscribe `agent` to `topic`; idempotent.

        Raises:
            UnknownAgentError: there is no such agent.
            ConfigError: the topic is empty.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.subscribe(agent, topic)

    def unsubscribe(self, agent: str, topic: str) -> None:
        """Unsubscribe `agent` from `topic`, if it is subscribed.

        Raises:
            UnknownAgentError: there is no such agent.
            ConfigError: the topic is empty.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._directory.unsubscribe(agent, topic)

    # Messages.

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
        """Deliver a message to the mailbox of `recipient`, and return whether it was delivered.

        If the mailbox is full, `config.overflow` decides: "wait" waits for room, for `config.timeout` seconds;
        "drop" drops the message and returns False; "error" raises.

        Raises:
            UnknownAgentError: there is no such agent.
            MailboxFullError: the mailbox was full, or had no room in time.
            AgentGoneError: the agent is retiring, or was unregistered while this waited for room.
            ConfigError: an argument is invalid.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._check_open()
        agent = self._directory.find_accepting(recipient)
        return await agent.send(
            self._compose(sender, recipient, MessageType.NOTIFICATION, data, priority=priority, headers=headers)
        )

    @trio.lowlevel.enable_ki_protection
    async def request(
        self,
        sender: str,
        recipient: str,
        data: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recipient learns of it as the deadline
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send a request to `recipient`, and return its answer.

        Args:
            sender: the sender's name.
            recipient: the agent's name.
            data: the payload.
            timeout: seconds to wait for the answer, waiting for room included; None is `config.timeout`. A request
                made by a handler waits no longer than its own requester does (`message.deadline`).
            priority: the priority in the mailbox.
            headers: metadata beside the payload.

        Raises:
            HandlerError: the handler failed (from what it raised).
            RequestTimeoutError: no answer arrived in time; the message is withdrawn as by a cancellation.
            UnknownAgentError: there is no such agent.
            MailboxFullError: the mailbox is full, and `config.overflow` is not "wait".
            AgentGoneError: the agent was unregistered, or is retiring.
            ConfigError: an argument is invalid.
            HubClosedError: the block has been left, before or during this call.

        Cancellation: the message is withdrawn; a handler already running is not cancelled, and its answer is
        dropped.
        """
        self._check_run()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            if timeout is None:
                timeout = self._state.config.timeout
            else:
                check_seconds("timeout", timeout)
            self._check_open()
            agent = self._directory.find_accepting(recipient)
            now = trio.current_time()
            until = self._state.limit(now + timeout)
            if until <= now:
                late = f"no request to {quote(recipient)} was made: the one that this handler answers has expired"
                raise RequestTimeoutError(late, agent=recipient)
            deadline = time.time() + until - now
            message = self._compose(
                sender, recipient, MessageType.REQUEST, data, priority=priority, headers=headers, deadline=deadline
            )
        except TrioflowError:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        return await agent.request(message, now, until)

    @trio.lowlevel.enable_ki_protection
    async def broadcast(
        self,
        sender: str,
        data: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send to all agents except the sender, and return the number delivered; full mailboxes count as dropped.

        Raises:
            ConfigError: an argument is invalid.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered; a delivery that has started is completed.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._check_open()
        first = self._compose(sender, "", MessageType.BROADCAST, data, priority=priority, headers=headers)
        return await spread(self._state, first, list(self._directory))

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
        """Send to all subscribers of `topic` except the sender, and return the number delivered; see `broadcast`.

        Raises:
            ConfigError: an argument is invalid.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered; a delivery that has started is completed.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        self._check_open()
        subscribers = self._directory.subscribers(topic)
        first = self._compose(
            sender, "", MessageType.NOTIFICATION, data, priority=priority, headers=headers, topic=topic
        )
        return await spread(self._state, first, subscribers)

    def _compose(
        self,
        sender: str,
        recipient: str,
        type: MessageType,
        data: Any,
        *,
        priority: Priority,
        headers: Mapping[str, str] | None,
        topic: str | None = None,
        deadline: float | None = None,
    ) -> Message:
        check_text("sender", sender)
        if not isinstance(priority, Priority):
            check_instance("priority", priority, Priority)
        if headers is not None:
            check_headers(headers)
        message = Message(
            hub=self.name,
            sender=sender,
            recipient=recipient,
            type=type,
            data=data,
            topic=topic,
            priority=priority,
            headers=dict(headers) if headers else {},
            deadline=deadline,
        )
        self._ledger.announce(EventType.MESSAGE_SENT, message)
        return message

    def _check_run(self) -> None:
        """Refuse a call in another `trio.run`, whose tasks this one could not wake."""
        check_in_trio()
        if not self._state.closed and trio.lowlevel.current_trio_token() is not self._state.token:
            name = quote(self.name)
            raise RuntimeError(f"hub {name} works in the trio.run that opened it: use trio.from_thread.run")

    def _check_open(self) -> None:
        if self._state.closed:
            raise self._state.closed_error()


@final
class _HubBlock(Block[Hub]):
    """The block of a hub, which drains it or closes it at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._state = hub._state  # noqa: SLF001 - this is the hub's own
        self._directory = hub._directory  # noqa: SLF001 - the same
        super().__init__(self._state.errors)

    def _open(self, nursery: trio.Nursery) -> Hub:
        self._state.open(nursery, self._dismiss)
        return self._hub

    async def _leave(self, *, in_peace: bool) -> None:
        """Drain the messages, up to the drain timeout; then cancel the handlers.

        Cancellation: passes through; the handlers are cancelled.
        """
        state = self._state
        try:
            if in_peace:
                with trio.move_on_after(state.config.drain_timeout) as patience:
                    await state.ledger.wait_until_quiet()
                    # While idle tasks end, other tasks may send.
                    await self._end_idle_tasks()
                    await state.ledger.wait_until_quiet()
                if patience.cancelled_caught:
                    running = sum(agent.tasks.busy for agent in self._directory)
                    state.ledger.warn(running, state.config.drain_timeout)
        finally:
            state.close()

    async def _dismiss(self) -> None:
        """Discard queued messages, and reject everything that waits with `HubClosedError`.

        Cancellation: the caller shields it.
        """
        # First what cannot raise: an observer of a dropped message may raise a non-Exception.
        await self._end_idle_tasks()
        for number, agent in enumerate(list(self._directory)):
            with self._errors.collecting():
                agent.leave(self._state.closed_error)
            if not (number + 1) % 100:
                await trio.lowlevel.checkpoint()

    async def _end_idle_tasks(self) -> None:
        for number, agent in enumerate(list(self._directory)):
            agent.tasks.dismiss()
            if not (number + 1) % 100:
                await trio.lowlevel.checkpoint()

    async def _release(self) -> None:
        await self._state.resources.aclose()

    def _conclude(self) -> None:
        self._state.ledger.live.end()

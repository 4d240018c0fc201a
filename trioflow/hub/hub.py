"""The hub: agents register with it and exchange messages, for as long as its block lasts."""

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
    """Return a context manager that gives a `Hub`.

    Leaving the block in peace lets every message be handled first, for at most `config.drain_timeout` seconds;
    handlers may still send and request. Then, and at once where the block is left by an exception or a
    cancellation, the handlers are cancelled. When the block has been left no handler runs any more.

    Args:
        config: the hub's name, its limits, and its observer; None is `HubConfig()`.
        observer: is told of the messages; None takes the one that the config names.

    Raises:
        ConfigError: an argument cannot work.
        BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from a handler ends the block, bare. What
            the body of the block raises comes out as it is.

    Cancellation: passes through; every message has been accounted for.
    """
    check_instance("config", config, HubConfig, optional=True)
    config = config or HubConfig()
    given = get_observer(config.observer) if observer is None else observer
    check_observer("observer", given)
    return _HubBlock(Hub._create(config, given))  # noqa: SLF001 - only made here


@final
class Hub:
    """Where agents exchange messages; made by `open_hub`.

    After its block every method raises `HubClosedError`. A hub belongs to one `trio.run`.

    Attributes:
        name: its name, which its messages carry.
        live_metrics: what `metrics` returns, as a value to watch; it can be read after the block too.
    """

    __slots__ = ("_directory", "_ledger", "_state", "live_metrics", "name")

    name: str
    live_metrics: LiveValue[HubMetrics]
    _directory: Directory
    _ledger: MessageLedger
    _state: HubState

    def __init__(self) -> None:
        raise TypeError("a Hub is made by open_hub")

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

    # Who is there.

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_handlers: int | None = None,
        buffer: int | None = None,
        handler_timeout: float | None = None,
    ) -> None:
        """Let `handler` be called with each message for agent `name`.

        What it returns answers a request: data, or a `Message` made by `Message.reply`. What it raises, the
        requester gets as a `HandlerError`; the hub goes on.

        Args:
            name: what messages for it are addressed to.
            handler: an async function.
            max_handlers: messages that it handles at once; None is the hub's, as for the others.
            buffer: messages that its mailbox holds.
            handler_timeout: seconds for one call, after which it fails with `trio.TooSlowError`.

        Raises:
            ConfigError: the name is empty or taken, the handler is no async function, or a limit cannot work.
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
        """Forget an agent and what is in its mailbox; messages that its handler has in hand are finished.

        Those who wait for an answer of it, or for room, get `AgentGoneError` at once.

        Raises:
            UnknownAgentError: there is no such agent.
            HubClosedError: the block has been left.
        """
        self._check_open()
        self._remove(self._directory.find(name))

    @trio.lowlevel.enable_ki_protection
    async def retire(self, name: str) -> None:
        """Let an agent handle what it has, and forget it then: the gentle way to `unregister` it.

        It takes no new messages: senders get `AgentGoneError`, and what is broadcast or published passes it by. A
        handler must not wait for its own agent to retire.

        Raises:
            UnknownAgentError: there is no such agent.
            HubClosedError: the block has been left, now or while this waited.

        Cancellation: the agent goes all the same when it has handled everything.
        """
        check_in_trio()
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
        return self._ledger.metrics()

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
            AgentGoneError: the agent retires, or was unregistered while this waited for room.
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered.
        """
        check_in_trio()
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
        timeout: float | None = None,  # noqa: ASYNC109 - a request has one, and says when it is over
        priority: Priority = Priority.NORMAL,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask `recipient`, and return its answer.

        Args:
            sender: who asks.
            recipient: who is asked.
            data: what is asked.
            timeout: seconds for the answer, waiting for room included; None is `config.timeout`. A handler that
                is asked itself waits no longer than its requester does (`message.deadline`).
            priority: whether it is handled before others.
            headers: what is said beside the data.

        Raises:
            HandlerError: the handler failed (from what it raised).
            RequestTimeoutError: there was no answer in time; as under a cancellation.
            UnknownAgentError: there is no such agent.
            MailboxFullError: the mailbox is full, and `config.overflow` is not "wait".
            AgentGoneError: the agent was unregistered, or retires.
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left, now or while this waited.

        Cancellation: the message is withdrawn; a handler that has it is not cancelled, and its answer dropped.
        """
        check_in_trio()
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
                late = f"{quote(recipient)} was not asked: the request that this is for is not awaited any more"
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
        """Send to every agent but the sender, and return to how many; a full mailbox is passed over, and counted.

        Raises:
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered; once it has begun it goes on to the last.
        """
        check_in_trio()
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
        """Send to every subscriber of `topic` but the sender, and return to how many; see `broadcast`.

        Raises:
            ConfigError: an argument cannot work.
            HubClosedError: the block has been left.

        Cancellation: nothing was delivered; once it has begun it goes on to the last.
        """
        check_in_trio()
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

    def _check_open(self) -> None:
        if self._state.closed:
            raise self._state.closed_error()


@final
class _HubBlock(Block[Hub]):
    """The block of a hub: left in peace or at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._state = hub._state  # noqa: SLF001 - this is the hub's own
        self._directory = hub._directory  # noqa: SLF001 - the same
        super().__init__(self._state.errors)

    def _open(self, nursery: trio.Nursery) -> Hub:
        self._state.open(nursery, self._dismiss)
        return self._hub

    async def _leave(self, *, in_peace: bool) -> None:
        """Let the messages be handled, or patience end; then stop the handlers.

        Cancellation: passes through; the handlers are stopped.
        """
        state = self._state
        try:
            if in_peace:
                with trio.move_on_after(state.config.drain_timeout) as patience:
                    await state.ledger.wait_until_quiet()
                    # While idle tasks end, others may send.
                    await self._end_idle_tasks()
                    await state.ledger.wait_until_quiet()
                if patience.cancelled_caught:
                    running = sum(agent.tasks.busy for agent in self._directory)
                    state.ledger.warn(running, state.config.drain_timeout)
        finally:
            state.close()

    async def _dismiss(self) -> None:
        """Let go of what waits, and tell those who wait for it that the hub is closed.

        Cancellation: the caller shields it.
        """
        # First what cannot fail: an observer that is told of a lost message may raise what is no `Exception`.
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

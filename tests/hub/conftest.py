"""What the tests of hubs share."""

from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import HubConfig, open_hub


@pytest.fixture
def opened():
    """Open a hub that nobody hears of; settings are those of its config."""

    @asynccontextmanager
    async def open_one(*, observer=None, **settings):
        settings.setdefault("observer", "noop")
        async with open_hub(HubConfig(**settings), observer=observer) as hub:
            yield hub

    return open_one


class Inbox(list):
    """A handler that keeps what it is given, and waits while it is closed."""

    def __init__(self):
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self.running = 0
        self.most = 0

    def close(self):
        self.gate = trio.Event()

    async def __call__(self, message):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await trio.lowlevel.checkpoint()
            self.append(message)
        finally:
            self.running -= 1
        return message.data

    @property
    def data(self):
        return [message.data for message in self]


@pytest.fixture
def inbox():
    return Inbox()

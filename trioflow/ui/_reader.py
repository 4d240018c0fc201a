"""Cached reads of the store for the page: rare enough to cost little, and recent.

A store that is opened read-only may show a snapshot of the file, so it is reopened for each read. However many
clients ask, there is one read at a time, and its answer is cached for four times as long as the read took.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, final

import trio

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.registry import open_to_look
from trioflow.errors import CheckpointStoreError

Question = Callable[[CheckpointStore], Awaitable[Any]]

FRESH = 0.5
"""The least seconds for which an answer is cached."""

_REST = 4
"""The factor from the time of a read to the time for which its answer is cached."""

_MOST_KEPT = 8
"""The most cached answers."""


@final
class Reader:
    """Reads the store at `url`.

    Raises:
        ConfigError: `url` is not the URL of a store.
    """

    def __init__(self, url: str) -> None:
        open_to_look(url)
        self._url = url
        self._turn = trio.Lock()
        self._answers: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Reader with {len(self._answers)} answers>"

    async def query(self, key: Hashable, question: Question) -> Any:
        """Return the answer to `question`, cached under `key`.

        Raises:
            CheckpointError: the store raised it.

        Cancellation: nothing is changed.
        """
        async with self._turn:
            until, answer = self._answers.get(key, (0.0, None))
            if trio.current_time() < until:
                return answer
            began = trio.current_time()
            answer = await self._read(question)
            took = trio.current_time() - began
            self._answers[key] = (trio.current_time() + max(FRESH, _REST * took), answer)
            self._answers.move_to_end(key)
            if len(self._answers) > _MOST_KEPT:
                self._answers.popitem(last=False)
            return answer

    async def _read(self, question: Question) -> Any:
        try:
            return await self._read_once(question)
        except CheckpointStoreError:
            # A writer may have started or ended between the check of the file and its opening.
            return await self._read_once(question)

    async def _read_once(self, question: Question) -> Any:
        store = open_to_look(self._url)
        try:
            return await question(store)
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()

"""What is read of the store for the page: seldom enough to cost it little, and never long ago.

A store that is opened only to look may show one moment of the file, so it is opened anew for each reading. However
many ask, there is one reading at a time, and an answer serves all for four times as long as reading took.
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
"""Seconds for which an answer serves at least."""

_REST = 4
"""Times as long as reading took, for which the store is then left alone."""

_MOST_KEPT = 8
"""Answers that are kept."""


@final
class Reader:
    """Asks the store at `url`.

    Raises:
        ConfigError: `url` is none of a store.
    """

    def __init__(self, url: str) -> None:
        open_to_look(url)
        self._url = url
        self._turn = trio.Lock()
        self._answers: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Reader with {len(self._answers)} answers>"

    async def ask(self, key: Hashable, question: Question) -> Any:
        """Return the answer to `question`, which `key` stands for.

        Raises:
            CheckpointError: what the store raised.

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
            # A writer may have begun or ended between the look at the file and its opening.
            return await self._read_once(question)

    async def _read_once(self, question: Question) -> Any:
        store = open_to_look(self._url)
        try:
            return await question(store)
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()

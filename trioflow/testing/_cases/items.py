"""Items: what is saved under a key is loaded under it."""

import contextlib
from typing import Any

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.testing._cases._support import StoreCases, case, check

__all__ = ("ItemCases",)


class ItemCases(StoreCases):
    """Items: what is saved under a key is loaded under it."""

    @case
    async def test_items_come_back(self, store: CheckpointStore) -> None:
        """What is saved under a key is loaded under it."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1"), ("b", b"")])
        await store.save_items("run", epoch, [("c", b"\x00\xff")])
        kept = {"a": b"1", "b": b"", "c": b"\x00\xff"}
        check(dict(await store.load_items("run")) == kept, "items came back changed")

    @case
    async def test_a_key_saved_again_is_replaced(self, store: CheckpointStore) -> None:
        """One key has one value, the newest."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1"), ("b", b"1")])
        await store.save_items("run", epoch, [("a", b"2")])
        check(dict(await store.load_items("run")) == {"a": b"2", "b": b"1"}, "the older value is still there")

    @case
    async def test_a_key_twice_in_a_batch_has_the_last_value(self, store: CheckpointStore) -> None:
        """Within a batch the later value wins."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1"), ("a", b"2")])
        check(dict(await store.load_items("run")) == {"a": b"2"}, "the earlier value won")

    @case
    async def test_an_empty_batch_changes_nothing(self, store: CheckpointStore) -> None:
        """Saving nothing is fine."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [])
        check(not await store.load_items("run"), "something came of nothing")

    @case
    async def test_items_of_nothing_are_none(self, store: CheckpointStore) -> None:
        """A run that is not there has no items."""
        check(not await store.load_items("run"), "there are items of nothing")

    @case
    async def test_a_large_batch_is_kept(self, store: CheckpointStore) -> None:
        """Ten thousand items in one batch are no trouble."""
        epoch = await store.claim("run")
        batch = [(f"key {number}", b"%d" % number) for number in range(10_000)]
        await store.save_items("run", epoch, batch)
        check(dict(await store.load_items("run")) == dict(batch), "items were lost")

    @case
    async def test_items_survive_a_claim(self, store: CheckpointStore) -> None:
        """A new epoch changes nothing of the items."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1")])
        await store.claim("run")
        check(dict(await store.load_items("run")) == {"a": b"1"}, "a claim changed the items")

    @case
    async def test_what_was_loaded_is_the_callers(self, store: CheckpointStore) -> None:
        """Changing what was loaded changes nothing of what is kept."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1")])
        loaded: Any = await store.load_items("run")
        with contextlib.suppress(TypeError):
            loaded["a"] = b"spoilt"
        check(dict(await store.load_items("run")) == {"a": b"1"}, "the caller changed what is kept")

"""Items: what is saved under a key is loaded under it."""

import contextlib
from typing import Any

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.testing._cases._support import StoreCases, case, check


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
        """Saving nothing is allowed."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [])
        check(not await store.load_items("run"), "saving nothing saved something")

    @case
    async def test_items_of_nothing_are_none(self, store: CheckpointStore) -> None:
        """An unknown run has no items."""
        check(not await store.load_items("run"), "there are items of nothing")

    @case
    async def test_a_large_batch_is_kept(self, store: CheckpointStore) -> None:
        """Twelve thousand items can be saved in one batch."""
        epoch = await store.claim("run")
        batch = [(f"key {number}", b"%d" % number) for number in range(12_000)]
        await store.save_items("run", epoch, batch)
        check(dict(await store.load_items("run")) == dict(batch), "items were lost")

    @case
    async def test_items_survive_a_claim(self, store: CheckpointStore) -> None:
        """A new epoch does not change the items."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1")])
        await store.claim("run")
        check(dict(await store.load_items("run")) == {"a": b"1"}, "a claim changed the items")

    @case
    async def test_what_was_loaded_is_the_callers(self, store: CheckpointStore) -> None:
        """Mutating what was loaded does not change what is stored."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1")])
        loaded: Any = await store.load_items("run")
        with contextlib.suppress(TypeError):
            loaded["a"] = b"spoilt"
        check(dict(await store.load_items("run")) == {"a": b"1"}, "the caller changed what is kept")

    @case
    async def test_keys_that_look_alike_are_told_apart(self, store: CheckpointStore) -> None:
        """Keys are stored exactly, code point by code point."""
        epoch = await store.claim("run")
        keys = ("a", "A", "a ", "a\0", "\u00e9", "e\u0301", "\u212b", "\u00c5")
        batch = [(key, b"%d" % number) for number, key in enumerate(keys)]
        await store.save_items("run", epoch, batch)
        check(dict(await store.load_items("run")) == dict(batch), "two keys were taken for one")

    @case
    async def test_a_batch_that_fails_leaves_nothing(self, store: CheckpointStore) -> None:
        """If a store cannot save a part of a batch, it saves nothing of it."""
        epoch = await store.claim("run")
        batch = [(f"{number}", b"x") for number in range(50)]
        # A store that encodes keys as text cannot save this one; another saves the whole batch.
        batch.insert(25, ("\ud800", b"x"))
        try:
            await store.save_items("run", epoch, batch)
        except Exception:  # noqa: BLE001 - the store may raise any error
            check(not await store.load_items("run"), "a part of the batch is kept")
        else:
            check(dict(await store.load_items("run")) == dict(batch), "a part of the batch was lost")

"""The block of a hub: opened with its nursery, left in peace or at once."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from trioflow._runtime.errors import foreign_cancelled
from trioflow.config import HubConfig
from trioflow.config.checks import check_instance
from trioflow.events import Observer
from trioflow.hub.hub import Hub
from trioflow.observers.registry import check_observer, get_observer

__all__ = ("open_hub",)


def open_hub(
    config: HubConfig | None = None, *, observer: Observer | None = None
) -> AbstractAsyncContextManager[Hub]:
    """Return a context manager that gives a `Hub`.

    Leaving the block in peace lets every message be handled first, for at most `config.drain_timeout` seconds;
    handlers may still send and request. Then, and at once where the block is left by an exception or a
    cancellation, the handlers are cancelled. When the block has been left no handler runs any more.

    Args:
        config: the hub's name, its limits, and who hears of it; None is `HubConfig()`.
        observer: who hears of it; None takes the one that the config names.

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
    return _opened(Hub._create(config, given))  # noqa: SLF001 - only made here


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _opened(hub: Hub) -> AsyncIterator[Hub]:
    """Open the hub for the block, and close it behind it."""
    ground = hub._ground  # noqa: SLF001 - this is the hub's own
    errors = ground.errors
    with errors.collecting(unwrap=True):
        async with trio.open_nursery() as ground.nursery:
            with errors.collecting():
                yield hub
                await hub._drain()  # noqa: SLF001
            hub._close()  # noqa: SLF001
    errors.judge(lambda cancelled: foreign_cancelled(cancelled, "the body of the block"))
    try:
        errors.raise_worst()
    finally:
        del hub, ground

"""Which store a run is kept in: the caller's, or the one that its config names; or none."""

from trioflow._durable.children import ChildStore
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.registry import check_store, get_checkpoint_store
from trioflow.checkpoint.session import check_run_id, choose_store
from trioflow.config import CheckpointConfig
from trioflow.errors import ConfigError


def choose_store_for(
    run_id: str | None, given: CheckpointStore | None, config: CheckpointConfig | None, *, always: bool = False
) -> CheckpointStore | str | None:
    """Return the store to keep the run in, None where it is not kept; refuse a store or an id that does not fit.

    Args:
        run_id: the id that the caller gave; a run without one is not kept.
        given: the caller's store.
        config: which store, else.
        always: whether the config's `interval` plays no part.
    """
    if given is not None and run_id is None:
        raise ConfigError.refusing("run_id", run_id, "an id to find the run again, where a store is given")
    store: CheckpointStore | str | None
    if not always:
        store = choose_store(given, config)
    elif given is not None:
        check_store("store", given)
        store = given
    else:
        store = None if config is None else config.store
        if store is not None:
            get_checkpoint_store(store)
    if store is None or run_id is None:
        return None
    if not isinstance(store, ChildStore):
        check_run_id(run_id)
    return store

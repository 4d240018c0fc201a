"""Chooses the store of a run: the caller's, the one that its config names, or none."""

from trioflow._durable.children import ChildStore
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.registry import check_store, get_checkpoint_store
from trioflow.checkpoint.session import check_run_id, choose_store
from trioflow.config import CheckpointConfig
from trioflow.errors import ConfigError


def choose_store_for(
    run_id: str | None, given: CheckpointStore | None, config: CheckpointConfig | None, *, always: bool = False
) -> CheckpointStore | str | None:
    """Return the store of a run, or None if the run is not durable; check the store and the id.

    Args:
        run_id: the caller's id; a run without one is not durable.
        given: the caller's store.
        config: names the store, if the caller gave none.
        always: whether to ignore the config's `interval`.

    Raises:
        ConfigError: the store or the id is invalid.
    """
    if given is not None and run_id is None:
        raise ConfigError.refusing("run_id", run_id, "an id that identifies the stored run, if a store is given")
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

"""Branches: several nodes that work at the same time on one state each, and the join of what they made of it.

The branches are the items of a fan-out, so they are bounded, retried, timed and kept as items are. Each is given a
copy of the state; what each has changed in it is found by comparison, and put together where no two have changed
the same. A branch is also a host: a pattern or a graph in it is a run inside the fan-out.
"""

import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, final

from trioflow._durable.children import Child, ChildStore, child_id, host
from trioflow._runtime.calls import call_either, call_plain
from trioflow._runtime.signals import JournalError
from trioflow._text import quote, show
from trioflow.checkpoint.session import decode, encode
from trioflow.config import ParallelConfig
from trioflow.config import merge as merge_config
from trioflow.config.checks import check_async, check_callable, check_instance, check_text
from trioflow.errors import CheckpointEncodeError, ConfigError, ParallelError
from trioflow.graph._builder import NodeFunction
from trioflow.graph._inside import child_of, run_kept
from trioflow.graph.state import (
    MISSING,
    changes_between,
    fields_of,
    isolate_soon,
    rebased,
    state_codec,
    with_changes,
)
from trioflow.outcomes import BranchesResult, ParallelResult
from trioflow.workflows import process_parallel

__all__ = ("branches_node",)

S = TypeVar("S")

Merge = Callable[[S, BranchesResult[S]], S | Awaitable[S]]
Reducer = Callable[[Any, Sequence[Any]], Any]

_PARALLEL = ParallelConfig()


def branches_node(
    branches: Mapping[str, NodeFunction[S]],
    *,
    merge: Merge[S] | None = None,
    reducers: Mapping[str, Reducer] | None = None,
    config: ParallelConfig = _PARALLEL,
    durable: bool = True,
) -> NodeFunction[S]:
    """Return a node that runs several nodes at the same time, and joins what they made of the state.

    Each branch is given a copy of the state. Without `merge`, what a branch has changed in it (by `==`; taking a
    key out of a `State` is a change) is taken into the next state. What several have changed, equally or not, is
    decided by a reducer, and without one the node fails.

    Args:
        branches: by name: node functions, nodes made of patterns, or graphs by `graph_node`.
        merge: a function, plain or async, of the state before and a `BranchesResult` that returns the next state.
        reducers: by key or field: plain functions of the value before, and of those of the branches that changed
            it, in their order, that return the next value; None stands for what is not there.
        config: as for `process_parallel`; its `max_workers` of 0 means all branches at once. Under `fail_fast` a
            branch that fails cancels the others and fails the node; without, the node fails after the others, or,
            with `merge`, `BranchesResult.errors` has what the branches failed with.
        durable: whether the branches are kept where the graph is: those that have finished are then not run again.

    Raises:
        ConfigError: an argument cannot work.
    """
    given = _checked(branches)
    check_instance("config", config, ParallelConfig)
    if merge is not None and not callable(merge):
        raise ConfigError.refusing("merge", merge, "a function of the state and a BranchesResult, or None")
    if merge is not None and reducers is not None:
        raise ConfigError.refusing("reducers", reducers, "None, where merge is given: it decides by itself")
    deciding = _checked_reducers(reducers)
    workers = {"max_workers": config.max_workers or len(given), "raise_if_all_failed": False}
    settings = merge_config(config, workers)

    async def run_branches(state: S) -> S:
        child = child_of(run_branches, config.observer, durable=durable)

        async def run(config: ParallelConfig, store: ChildStore | None) -> BranchesResult[S]:
            return await _Branches(given, state, child, store).run(config, collect=merge is not None)

        own_store = None if config.checkpoint is None or not durable else config.checkpoint.store
        result = await run_kept(run, child, settings, own_store)
        if merge is not None:
            return await call_either(merge, state, result)
        return _join(state, result.states, deciding)

    # What validate and to_mermaid look for.
    run_branches.branches = given  # type: ignore[attr-defined]
    run_branches.reducers = deciding  # type: ignore[attr-defined]
    return run_branches


def _checked(branches: Mapping[str, NodeFunction[S]]) -> dict[str, NodeFunction[S]]:
    check_instance("branches", branches, Mapping)
    if not branches:
        raise ConfigError.refusing("branches", branches, "one branch or more")
    for name, fn in branches.items():
        check_text("the name of a branch", name)
        check_async(f"branch {quote(name)}", fn)
    return dict(branches)


def _checked_reducers(reducers: Mapping[str, Reducer] | None) -> dict[str, Reducer]:
    if reducers is None:
        return {}
    check_instance("reducers", reducers, Mapping)
    for name, reducer in reducers.items():
        check_text("the name in reducers", name)
        check_callable(f"reducers[{quote(name)}]", reducer)
    return dict(reducers)


@final
class _Branches(Generic[S]):
    """The branches of one visit of a node.

    Args:
        branches: what they do, by name.
        state: what each is given a copy of.
        child: the run that they are items of.
        store: where that is kept; None is nowhere.
    """

    def __init__(
        self, branches: Mapping[str, NodeFunction[S]], state: S, child: Child, store: ChildStore | None
    ) -> None:
        self._branches = branches
        self._state = state
        self._child = child
        self._store = store
        self._state_type: type[Any] = child.state_type or type(state)
        self._codec = state_codec(self._state_type)

    async def run(self, config: ParallelConfig, *, collect: bool) -> BranchesResult[S]:
        """Run them all.

        Args:
            config: how.
            collect: whether a branch may fail.

        Raises:
            ParallelError: a branch failed, and may not, or any did under `fail_fast`.

        Cancellation: passes through.
        """
        names = list(self._branches)
        try:
            result = await process_parallel(
                names,
                self._run_branch,
                config=config,
                observer=self._child.observer,
                store=self._store,
                run_id=self._child.run_id,
                key=None if self._store is None else str,
            )
            _check_errors(result, collect=collect)
        except ParallelError as error:
            self._name_branches(error)
            raise
        states = {names[index]: await self._state_of(kept) for index, kept in _by_index(result)}
        return BranchesResult(states, {names[failure.index]: failure.error for failure in result.errors})

    async def _run_branch(self, name: str) -> Any:
        branch = self._branches[name]
        host.set(_BranchHost(name, branch, self._child, self._store, self._state_type))
        state = await branch(await isolate_soon(self._state))
        if not isinstance(state, self._state_type):
            wanted = f"branch {quote(name)} has to return a {self._state_type.__name__}"
            raise TypeError(f"{wanted}, and this one returned {show(state)}")
        if self._store is None:
            return state
        try:
            # With the state that it was given: at a resume the others may be given one that was updated.
            return [await encode(self._codec, self._state), await encode(self._codec, state)]
        except CheckpointEncodeError as error:
            error.value = state
            raise JournalError from error

    async def _state_of(self, kept: Any) -> S:
        """Return the state that a branch returned, with what was updated since in the one that it was given.

        Cancellation: passes through.
        """
        if self._store is None:
            state: S = kept
            return state
        before, after = kept
        state = await decode(self._codec, after)
        if before == await encode(self._codec, self._state):
            return state
        return rebased(state, await decode(self._codec, before), self._state)

    def _name_branches(self, error: ParallelError) -> None:
        node = "" if self._child.node is None else f" of node {quote(self._child.node)}"
        for failure in error.errors:
            failure.error.add_note(f"raised by branch {quote(failure.item)}{node}")


def _check_errors(result: ParallelResult[str, Any], *, collect: bool) -> None:
    if result.errors and not collect:
        raise ParallelError(result.errors, result)


def _by_index(result: ParallelResult[str, Any]) -> list[tuple[int, Any]]:
    return list(zip(result.indices, result.results, strict=True))


@final
class _BranchHost:
    """What a branch says to the runs that are begun in it."""

    def __init__(
        self, name: str, branch: object, fan_out: Child, store: ChildStore | None, state_type: type[Any]
    ) -> None:
        self._name = name
        self._branch = branch
        self._fan_out = fan_out
        self._store = store
        self._state_type = state_type

    def child_of(self, node: object) -> Child:
        """See `Host.child_of`: what is the branch itself is kept with the fan-out of the branches."""
        parent, observer = self._fan_out.run_id, self._fan_out.observer
        if parent is None or inspect.unwrap(self._branch) is not node:  # type: ignore[arg-type]  # it is a function
            return Child(uuid.uuid4().hex, observer, None, None, self._state_type)
        store = None if self._store is None else self._store.inside()
        return Child(child_id(parent, self._name), observer, store, self._name, self._state_type)


def _join(before: S, states: Mapping[str, S], reducers: Mapping[str, Reducer]) -> S:
    """Return `before` with what each of `states`, by the names of branches, has changed in it.

    Raises:
        ValueError: several have changed the same, and no reducer decides.
    """
    changed: dict[str, dict[str, Any]] = {}
    for branch, state in states.items():
        for name, value in changes_between(before, state).items():
            changed.setdefault(name, {})[branch] = value
    undecided = [name for name, values in changed.items() if len(values) > 1 and name not in reducers]
    if undecided:
        said = "; ".join(f"{quote(name)} by {', '.join(map(quote, changed[name]))}" for name in undecided)
        raise ValueError(f"several branches changed the same: {said}; give reducers= for it, or merge=")
    old = fields_of(before)
    changes = {}
    for name, values in changed.items():
        given = [None if value is MISSING else value for value in values.values()]
        single = len(values) == 1
        changes[name] = next(iter(values.values())) if single else call_plain(reducers[name], old.get(name), given)
    return with_changes(before, changes)

"""Branches: nodes that run concurrently on copies of the state, and the join of their states.

The branches are the items of a fan-out, so they are limited, retried, timed out and stored as items are. Each gets
a copy of the state; the changes that each made are found by comparison and merged, unless two changed the same key
or field. A branch is also a host: a pattern or a graph in it is a run inside the fan-out.
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
from trioflow.graph._inside import child_of, run_child
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
    """Return a node that runs several nodes concurrently, and joins their states.

    Each branch gets a copy of the state. Without `merge`, the next state has every key or field that a branch
    changed (by `==`; removing a key from a `State` is a change). If several branches changed one, equally or not,
    a reducer decides; without one the node fails.

    Args:
        branches: node functions, pattern nodes, or graphs by `graph_node`, by name.
        merge: a function, plain or async, of the state before and a `BranchesResult` that returns the next state.
        reducers: plain functions by key or field: each takes the value before and the values of the branches that
            changed it, in their order, and returns the next value; None stands for a missing value.
        config: as for `process_parallel`, except that `max_workers=0` runs all branches at once. Under `fail_fast`
            a failed branch cancels the others and fails the node; otherwise the node fails after the others have
            finished, or, with `merge`, the errors are in `BranchesResult.errors`.
        durable: whether the branches are durable if the graph is: finished ones are then not run again.

    Raises:
        ConfigError: an argument is invalid.
    """
    given = _checked(branches)
    check_instance("config", config, ParallelConfig)
    if merge is not None and not callable(merge):
        raise ConfigError.refusing("merge", merge, "a function of the state and a BranchesResult, or None")
    if merge is not None and reducers is not None:
        raise ConfigError.refusing("reducers", reducers, "None if merge is given, which replaces them")
    deciding = _checked_reducers(reducers)
    workers = {"max_workers": config.max_workers or len(given), "raise_if_all_failed": False}
    settings = merge_config(config, workers)

    async def run_branches(state: S) -> S:
        child = child_of(run_branches, config.observer, durable=durable)

        async def run(config: ParallelConfig, store: ChildStore | None) -> BranchesResult[S]:
            return await _Branches(given, state, child, store).run(config, collect=merge is not None)

        own_store = None if config.checkpoint is None or not durable else config.checkpoint.store
        result = await run_child(run, child, settings, own_store)
        if merge is not None:
            return await call_either(merge, state, result)
        return _join(state, result.states, deciding)

    # Read by validate and to_mermaid.
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
        branches: their functions, by name.
        state: the state of which each gets a copy.
        child: the run whose items they are.
        store: where that run is stored; None is nowhere.
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
        self._finished: dict[str, tuple[S, S]] | None = None
        if store is None and child.finished is not None and child.run_id is not None:
            self._finished = child.finished.of(child.run_id)

    async def run(self, config: ParallelConfig, *, collect: bool) -> BranchesResult[S]:
        """Run all branches.

        Args:
            config: settings of the fan-out.
            collect: whether errors of branches are returned rather than raised.

        Raises:
            ParallelError: a branch failed, without `collect` or under `fail_fast`.

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
        if self._finished is not None and name in self._finished:
            before, after = self._finished[name]
            return rebased(await isolate_soon(after), before, self._state)
        branch = self._branches[name]
        host.set(_BranchHost(name, branch, self._child, self._store, self._state_type))
        state = await branch(await isolate_soon(self._state))
        if not isinstance(state, self._state_type):
            raise TypeError(f"branch {quote(name)} must return a {self._state_type.__name__}, got {show(state)}")
        if self._store is None:
            if self._finished is not None:
                self._finished[name] = self._state, state
            return state
        try:
            # With its input state: a resume may give the other branches an updated one.
            return [await encode(self._codec, self._state), await encode(self._codec, state)]
        except CheckpointEncodeError as error:
            error.value = state
            raise JournalError from error

    async def _state_of(self, kept: Any) -> S:
        """Return the state of a finished branch, with the updates made since to its input state.

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
    """The host of the runs that are started in a branch."""

    def __init__(
        self, name: str, branch: object, fan_out: Child, store: ChildStore | None, state_type: type[Any]
    ) -> None:
        self._name = name
        self._branch = branch
        self._fan_out = fan_out
        self._store = store
        self._state_type = state_type

    def child_of(self, node: object) -> Child:
        """See `Host.child_of`: a run that is the branch itself is stored with the fan-out of the branches."""
        parent, observer = self._fan_out.run_id, self._fan_out.observer
        if parent is None or inspect.unwrap(self._branch) is not node:  # type: ignore[arg-type]  # it is a function
            return Child(uuid.uuid4().hex, observer, None, None, self._state_type)
        store = None if self._store is None else self._store.inside()
        run_id, finished = child_id(parent, self._name), self._fan_out.finished
        return Child(run_id, observer, store, self._name, self._state_type, finished)


def _join(before: S, states: Mapping[str, S], reducers: Mapping[str, Reducer]) -> S:
    """Return `before` with the changes that each of `states`, by branch name, has made to it.

    Raises:
        ValueError: several changed the same key or field, and there is no reducer for it.
    """
    changed: dict[str, dict[str, Any]] = {}
    for branch, state in states.items():
        for name, value in changes_between(before, state).items():
            changed.setdefault(name, {})[branch] = value
    undecided = [name for name, values in changed.items() if len(values) > 1 and name not in reducers]
    if undecided:
        said = "; ".join(f"{quote(name)} by {', '.join(map(quote, changed[name]))}" for name in undecided)
        raise ValueError(f"several branches changed the same key: {said}; give reducers= for it, or merge=")
    old = fields_of(before)
    changes = {}
    for name, values in changed.items():
        given = [None if value is MISSING else value for value in values.values()]
        single = len(values) == 1
        changes[name] = next(iter(values.values())) if single else call_plain(reducers[name], old.get(name), given)
    return with_changes(before, changes)

"""Errors taken out of groups, and weighed."""

import pytest
import trio

from trioflow._runtime.errors import ErrorCollector, most_severe, strip_cancelled
from trioflow.errors import leaves


def test_leaves_of_nested_groups_and_of_no_group():
    a, b, c = ValueError(), KeyError(), OSError()
    assert list(leaves(ExceptionGroup("g", [a, ExceptionGroup("h", [b, c])]))) == [a, b, c]
    assert list(leaves(a)) == [a]


async def test_distil(stale):
    plain, group, stop = ValueError(), ExceptionGroup("g", [ValueError()]), KeyboardInterrupt()
    assert strip_cancelled(plain) is plain
    assert strip_cancelled(group) is group
    assert strip_cancelled(stop) is stop
    assert strip_cancelled(BaseExceptionGroup("g", [stop, plain, stale])) is stop
    assert strip_cancelled(BaseExceptionGroup("g", [stale, stale])) is stale
    kept = strip_cancelled(BaseExceptionGroup("g", [stale, BaseExceptionGroup("h", [plain, stale])]))
    assert isinstance(kept, ExceptionGroup)
    assert list(leaves(kept)) == [plain]


async def test_the_most_grave_of_several(stale):
    first, second, stop = ValueError(1), ValueError(2), SystemExit(3)
    assert most_severe([]) is None
    assert most_severe([stale]) is stale
    assert most_severe([stale, first, second]) is first
    assert most_severe([stale, first, stop]) is stop
    assert most_severe([stop, SystemExit(3)]) is stop
    both = most_severe([stop, KeyboardInterrupt()])
    assert isinstance(both, BaseExceptionGroup)
    assert [type(leaf) for leaf in both.exceptions] == [SystemExit, KeyboardInterrupt]
    twice = most_severe([BaseExceptionGroup("g", [KeyboardInterrupt(), KeyboardInterrupt()])])
    assert isinstance(twice, BaseExceptionGroup), "what a user grouped stays grouped"
    other = most_severe([stop, SystemExit(4)])
    assert isinstance(other, BaseExceptionGroup)


def test_a_collector_raises_the_worst_once_and_keeps_nothing():
    errors = ErrorCollector()
    with errors.collecting():
        raise ValueError(1)
    with errors.collecting():
        pass
    with errors.collecting(unwrap=True):
        raise BaseExceptionGroup("a nursery's", [KeyboardInterrupt(), ValueError(2)])
    errors.add(None)
    assert isinstance(errors.worst(), KeyboardInterrupt)
    assert "KeyboardInterrupt" in repr(errors)
    with pytest.raises(KeyboardInterrupt):
        errors.raise_worst()
    errors.raise_worst()


async def test_a_cancelled_is_judged_where_it_is_known_what_is_cancelled(stale):
    errors = ErrorCollector()
    errors.add(stale)
    with trio.CancelScope() as scope:  # noqa: ASYNC100 - judged without a checkpoint
        scope.cancel()
        errors.replace_foreign(lambda _: ValueError())
    assert errors.worst() is stale
    errors.replace_foreign(lambda cancelled: ValueError(cancelled))
    with pytest.raises(ValueError) as caught:
        errors.raise_worst()
    assert caught.value.args == (stale,)

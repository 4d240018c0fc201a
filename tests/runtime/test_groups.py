"""Errors taken out of groups, and weighed."""

import pytest
import trio

from trioflow._runtime.groups import distil, holding, leaves, most_grave


@pytest.fixture
async def cancelled():
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            return error


def test_leaves_of_nested_groups_and_of_no_group():
    a, b, c = ValueError(), KeyError(), OSError()
    assert list(leaves(ExceptionGroup("g", [a, ExceptionGroup("h", [b, c])]))) == [a, b, c]
    assert list(leaves(a)) == [a]


async def test_distil(cancelled):
    plain, group, stop = ValueError(), ExceptionGroup("g", [ValueError()]), KeyboardInterrupt()
    assert distil(plain) is plain
    assert distil(group) is group
    assert distil(stop) is stop
    assert distil(BaseExceptionGroup("g", [stop, plain, cancelled])) is stop
    assert distil(BaseExceptionGroup("g", [cancelled, cancelled])) is cancelled
    kept = distil(BaseExceptionGroup("g", [cancelled, BaseExceptionGroup("h", [plain, cancelled])]))
    assert isinstance(kept, ExceptionGroup)
    assert list(leaves(kept)) == [plain]


async def test_the_most_grave_of_several(cancelled):
    first, second, stop = ValueError(1), ValueError(2), SystemExit(3)
    assert most_grave([]) is None
    assert most_grave([cancelled]) is cancelled
    assert most_grave([cancelled, first, second]) is first
    assert most_grave([cancelled, first, stop]) is stop
    assert most_grave([stop, SystemExit(3)]) is stop
    both = most_grave([stop, KeyboardInterrupt()])
    assert isinstance(both, BaseExceptionGroup)
    assert [type(leaf) for leaf in both.exceptions] == [SystemExit, KeyboardInterrupt]
    other = most_grave([stop, SystemExit(4)])
    assert isinstance(other, BaseExceptionGroup)


def test_holding_keeps_what_is_raised():
    faults = []
    with holding(faults):
        raise KeyboardInterrupt
    with holding(faults):
        pass
    assert [type(fault) for fault in faults] == [KeyboardInterrupt]

"""Errors taken out of groups, and weighed."""

from trioflow._runtime.groups import distil, holding, most_grave
from trioflow.errors import leaves


def test_leaves_of_nested_groups_and_of_no_group():
    a, b, c = ValueError(), KeyError(), OSError()
    assert list(leaves(ExceptionGroup("g", [a, ExceptionGroup("h", [b, c])]))) == [a, b, c]
    assert list(leaves(a)) == [a]


async def test_distil(stale):
    plain, group, stop = ValueError(), ExceptionGroup("g", [ValueError()]), KeyboardInterrupt()
    assert distil(plain) is plain
    assert distil(group) is group
    assert distil(stop) is stop
    assert distil(BaseExceptionGroup("g", [stop, plain, stale])) is stop
    assert distil(BaseExceptionGroup("g", [stale, stale])) is stale
    kept = distil(BaseExceptionGroup("g", [stale, BaseExceptionGroup("h", [plain, stale])]))
    assert isinstance(kept, ExceptionGroup)
    assert list(leaves(kept)) == [plain]


async def test_the_most_grave_of_several(stale):
    first, second, stop = ValueError(1), ValueError(2), SystemExit(3)
    assert most_grave([]) is None
    assert most_grave([stale]) is stale
    assert most_grave([stale, first, second]) is first
    assert most_grave([stale, first, stop]) is stop
    assert most_grave([stop, SystemExit(3)]) is stop
    both = most_grave([stop, KeyboardInterrupt()])
    assert isinstance(both, BaseExceptionGroup)
    assert [type(leaf) for leaf in both.exceptions] == [SystemExit, KeyboardInterrupt]
    twice = most_grave([BaseExceptionGroup("g", [KeyboardInterrupt(), KeyboardInterrupt()])])
    assert isinstance(twice, BaseExceptionGroup), "what a user grouped stays grouped"
    other = most_grave([stop, SystemExit(4)])
    assert isinstance(other, BaseExceptionGroup)


def test_holding_keeps_what_is_raised():
    faults = []
    with holding(faults):
        raise KeyboardInterrupt
    with holding(faults):
        pass
    assert [type(fault) for fault in faults] == [KeyboardInterrupt]

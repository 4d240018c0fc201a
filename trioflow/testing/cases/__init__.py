"""The cases of the conformance suite: each is an async function of an empty store."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial, update_wrapper
from types import FunctionType
from typing import Any

from trioflow.testing.cases import ending, fencing, items, runs, steps

__all__ = ("all_cases",)


def all_cases() -> Iterator[tuple[str, Callable[[Any], Awaitable[None]]]]:
    """Yield each case with its name; one for each value where there are several."""
    for module in (fencing, steps, runs, items, ending):
        several: Mapping[str, Mapping[str, object]] = getattr(module, "SEVERAL", {})
        for name in module.__all__:
            check = getattr(module, name)
            if name in several:
                for label, value in several[name].items():
                    yield f"{name}_{label}", update_wrapper(partial(check, value), check)
            elif isinstance(check, FunctionType):
                yield name, check

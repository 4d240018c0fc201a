"""What cannot work is refused before anything starts, with the field, the value and what is allowed."""

import functools
from collections import abc
from collections.abc import Awaitable

import pytest

from trioflow import (
    CheckpointConfig,
    ConfigError,
    MemoryStore,
    NoopObserver,
    ParallelConfig,
    RecordingObserver,
    open_parallel,
    process_parallel,
    with_timeout,
)

touched = []


async def work(item):
    touched.append(item)
    return item


def plain(item):
    touched.append(item)
    return item


class AsyncObserver:
    async def on_event(self, event):
        pass


class CallableObject:
    async def __call__(self, item):
        return item

    async def method(self, item):
        return item

    def plain(self, item):
        return item


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return fn(*args)

    return wrapper


def async_around(fn):
    @functools.wraps(fn)
    async def wrapper(*args):
        return fn(*args)

    return wrapper


def annotated(item) -> Awaitable[int]:
    return work(item)


def annotated_by_text(item) -> "abc.Coroutine[None, None, int]":
    return work(item)


def annotated_plainly(item) -> int:
    return plain(item)


class AnnotatedObject:
    def __call__(self, item) -> Awaitable[int]:
        return work(item)

    def method(self, item) -> Awaitable[int]:
        return work(item)


async def async_progress(*args):
    pass


BAD = [
    ({"items": 3}, "items", "iterable"),
    ({"items": None}, "items", "iterable"),
    ({"processor": plain}, "processor", "async"),
    ({"processor": print}, "processor", "async"),
    ({"processor": CallableObject}, "processor", "async"),
    ({"processor": CallableObject().plain}, "processor", "async"),
    ({"processor": functools.partial(plain)}, "processor", "async"),
    ({"processor": annotated_plainly}, "processor", "annotate a plain one that returns an awaitable"),
    ({"processor": AnnotatedObject}, "processor", "async"),
    ({"processor": None}, "processor", "async"),
    ({"config": {"max_workers": 3}}, "config", "ParallelConfig"),
    ({"config": ParallelConfig(observer="nobody")}, "observer", "'loguru', 'noop'"),
    ({"observer": "noop"}, "observer", "on_event"),
    ({"observer": object()}, "observer", "on_event"),
    ({"observer": NoopObserver}, "observer", "on_event"),
    ({"observer": AsyncObserver()}, "observer", "plain method"),
    ({"progress": async_progress}, "progress", "plain function"),
    ({"progress": annotated}, "progress", "plain function"),
    ({"progress": 3}, "progress", "plain function"),
    ({"on_outcome": async_progress}, "on_outcome", "plain function"),
    ({"on_outcome": 3}, "on_outcome", "plain function"),
    ({"run_id": ""}, "run_id", "non-empty"),
    ({"run_id": 3}, "run_id", "non-empty"),
    ({"store": object(), "run_id": "r"}, "store", "CheckpointStore"),
    ({"store": MemoryStore()}, "run_id", "if a store is given"),
    ({"store": MemoryStore(), "run_id": "a'b"}, "run_id", "printable"),
    ({"store": MemoryStore(), "run_id": "../r"}, "run_id", "printable"),
    ({"store": MemoryStore(), "run_id": "a\nb"}, "run_id", "printable"),
    ({"store": MemoryStore(), "run_id": "a\0b"}, "run_id", "printable"),
    ({"key": 5}, "key", "plain function"),
    ({"config": ParallelConfig(checkpoint=CheckpointConfig(store="no")), "run_id": "r"}, "store", "known"),
    ({"config": ParallelConfig(checkpoint=CheckpointConfig(store="ftp://x/y")), "run_id": "r"}, "store", "sqlite"),
]


@pytest.mark.parametrize(("change", "field", "allowed"), BAD)
async def test_process_parallel_refuses(change, field, allowed):
    touched.clear()
    arguments = {"items": [1, 2], "processor": work, "observer": NoopObserver()} | change
    if "config" in change:
        del arguments["observer"]
    with pytest.raises(ConfigError, match=f"^{field} must be .*{allowed}.*, got ") as caught:
        await process_parallel(arguments.pop("items"), arguments.pop("processor"), **arguments)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
    assert touched == []


@pytest.mark.parametrize(
    ("change", "field", "allowed"), [case for case in BAD if not {"progress", "on_outcome"} & set(case[0])] + [
        ({"ordered": 1}, "ordered", "True or False"),
        ({"keep_results": None}, "keep_results", "True or False"),
    ]
)
def test_open_parallel_refuses_when_it_is_called(change, field, allowed):
    arguments = {"items": [1, 2], "processor": work, "observer": NoopObserver()} | change
    if "config" in change:
        del arguments["observer"]
    with pytest.raises(ConfigError, match=f"^{field} must be .*{allowed}.*, got "):
        open_parallel(arguments.pop("items"), arguments.pop("processor"), **arguments)


@pytest.mark.parametrize(
    "processor",
    [
        work,
        CallableObject(),
        CallableObject().method,
        functools.partial(work),
        functools.partial(functools.partial(work)),
        decorated(work),
        lambda item: work(item),
        with_timeout(lambda item: work(item), 5),
        async_around(plain),
        annotated,
        annotated_by_text,
        functools.partial(annotated),
        AnnotatedObject(),
        AnnotatedObject().method,
    ],
)
async def test_every_form_of_an_async_function_is_a_processor(processor):
    result = await process_parallel([1, 2], processor, observer=NoopObserver())
    assert result.results == [1, 2]


async def test_a_processor_that_was_called_is_refused_by_what_it_is():
    coroutine = work(1)
    with pytest.raises(ConfigError, match="not the coroutine it returns"):
        await process_parallel([1], coroutine)
    coroutine.close()


async def test_a_refused_run_does_not_touch_its_source():
    def source():
        touched.append("pulled")
        yield 1

    touched.clear()
    with pytest.raises(ConfigError):
        await process_parallel(source(), plain)
    assert touched == []


async def test_a_lambda_that_returns_no_awaitable_is_refused_at_its_first_call():
    started, heard = [], RecordingObserver()
    config = ParallelConfig(max_workers=1, fail_fast=False)
    with pytest.raises(ConfigError, match="processor must be an async function, or a lambda that returns"):
        await process_parallel(range(5), lambda item: started.append(item), config=config, observer=heard)
    assert started == [0]
    assert [event.type for event in heard.events if event.type.startswith("worker")] == [
        "worker.start",
        "worker.complete",
    ]


async def test_a_plain_function_whose_annotation_is_wrong_is_refused_at_its_first_call():
    def plain_after_all(item) -> Awaitable[int]:
        started.append(item)
        return item

    started = []
    config = ParallelConfig(max_workers=1, fail_fast=False, observer="noop")
    with pytest.raises(ConfigError, match="processor must be an async function"):
        await process_parallel(range(5), plain_after_all, config=config)
    assert started == [0]

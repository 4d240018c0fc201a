"""What cannot work is refused, with what to do instead."""

import builtins
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import executor_calls as calls
import pytest
from executor_pools import process_pool

from trioflow import ConfigError, ParallelConfig, dask_executor, on_executor, on_process, process_parallel

CONFIG = ParallelConfig(fail_fast=False, raise_if_all_failed=False, observer="noop", max_workers=2)


def make():
    return ThreadPoolExecutor(1)


async def make_async():
    return ThreadPoolExecutor(1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"executor": 3}, "executor must be a concurrent.futures.Executor, or a plain function that creates one, got 3"),
        ({"executor": None}, "executor must be a concurrent.futures.Executor"),
        ({"executor": make_async}, "executor must be a concurrent.futures.Executor"),
        ({"fn": 3}, "fn must be a function, plain or async, got 3"),
        ({"chunk": 0}, "chunk must be 1 or more, got 0"),
        ({"chunk": -1}, "chunk must be 1 or more, got -1"),
        ({"chunk": 1.5}, "chunk must be a whole number, 1 or more, got 1.5"),
        ({"chunk": True}, "chunk must be a whole number"),
        ({"max_wait": -0.1}, "max_wait must be a number of seconds, 0 or more, got -0.1"),
        ({"max_wait": float("nan")}, "max_wait must be a number of seconds"),
        ({"max_wait": float("inf")}, "max_wait must be a number of seconds"),
        ({"max_wait": "1"}, "max_wait must be a number of seconds"),
    ],
)
def test_wrong_arguments_are_refused_when_the_processor_is_made(arguments, says):
    given = {"executor": make, "fn": calls.pid, **arguments}
    with pytest.raises(ConfigError) as caught:
        on_executor(given.pop("executor"), given.pop("fn"), **given)
    assert says in str(caught.value)
    assert caught.value.field in arguments


@pytest.mark.parametrize("pool", [make, process_pool])
def test_an_executor_that_is_shut_down_is_refused(pool):
    executor = pool()
    executor.shutdown()
    with pytest.raises(ConfigError, match="executor must be an executor that stays open during the run"):
        on_executor(executor, calls.pid)


async def test_an_executor_that_is_shut_down_later_fails_the_items():
    executor = ThreadPoolExecutor(1)
    processor = on_executor(executor, calls.pid)
    executor.shutdown()
    result = await process_parallel([1], processor, config=CONFIG)
    assert isinstance(result.errors[0].error, ConfigError)
    assert "or pass a function that creates one" in str(result.errors[0].error)


async def test_a_factory_that_gives_something_else_is_refused():
    result = await process_parallel([1], on_executor(lambda: 3, calls.pid), config=CONFIG)
    assert isinstance(result.errors[0].error, ConfigError)
    assert "a function that returns a concurrent.futures.Executor, but it returned int" in str(result.errors[0].error)


def test_a_lambda_for_a_process_pool_is_refused():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for fn in (lambda item: item, make_local()):
            with pytest.raises(ConfigError, match="fn must be a function that pickle can import by name"):
                on_executor(pool, fn)
    with pytest.raises(ConfigError, match="work with threads, loky and Dask"):
        on_executor(ProcessPoolExecutor, lambda item: item)
    with pytest.raises(ConfigError, match=r"got test_a_lambda_for_a_process_pool_is_refused.<locals>.<lambda>"):
        on_process(lambda item: item)
    with pytest.raises(ConfigError, match="fn must be a function, plain or async"):
        on_process(3)


def make_local():
    def local(item):
        return item

    return local


async def test_a_lambda_for_a_process_pool_that_is_made_later_fails_the_items():
    result = await process_parallel([1], on_executor(process_pool, lambda item: item), config=CONFIG)
    error = result.errors[0].error
    assert isinstance(error, ConfigError)
    assert error.field == "fn"
    assert "defined with def at the top level of a module" in str(error)


def test_without_dask_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in {"distributed", "cloudpickle"}:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'trioflow\[dask\]'"):
        dask_executor(None)


def test_outside_of_trio_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"start the program with trio.run\(main\)"):
        on_executor(make, calls.pid)(1).send(None)

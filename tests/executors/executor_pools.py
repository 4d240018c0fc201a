"""The pools that tests make, and the processes below this one."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest


def thread_pool():
    return ThreadPoolExecutor(2)


def process_pool():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def loky_pool():
    return pytest.importorskip("loky", reason="loky is not installed").ProcessPoolExecutor(2)


def interpreter_pool():
    from concurrent import futures

    if not hasattr(futures, "InterpreterPoolExecutor"):
        pytest.skip("this Python has no InterpreterPoolExecutor: it comes with 3.14")
    return futures.InterpreterPoolExecutor(2)


def child_processes() -> set[int]:
    """The processes below this one, but for those that track resources of multiprocessing until its end."""
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "resource_tracker" not in line and child.status() != psutil.STATUS_ZOMBIE:
            found.add(child.pid)
    return found

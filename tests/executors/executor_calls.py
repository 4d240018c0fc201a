"""What the tests call elsewhere: at the top of a module, so that other processes find it."""

import contextvars
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import trio

from trioflow import current_run

variable = contextvars.ContextVar("variable", default="unset")


def square(number):
    if number % 100 == 7:
        raise ValueError(f"bad {number}")
    return number * number


async def square_async(number):
    await trio.sleep(0.001)
    return square(number)


def add(first, second=0, *, third=0):
    return first + second + third


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def spin(number):
    while True:
        number += 1


def begin_a_result(file):
    """Write the start of a message to the pool, as in the middle of a large result, and no more."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"x")
    Path(file).touch()
    time.sleep(60)


def pid(_):
    return os.getpid()


def thread(_):
    return threading.get_ident()


def say_run(_):
    run = current_run()
    try:
        run.emit("hello")
    except RuntimeError as error:
        return [run.run_id, run.kind, run.index, run.attempt, run.key, str(error)]
    return None


def say_span(_):
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    return os.getpid(), span.trace_id, span.span_id


def outside(_):
    try:
        current_run()
    except RuntimeError as error:
        return str(error)
    return None


def set_variable(value):
    before = variable.get()
    variable.set(value)
    return before


def die_once(job):
    """Die by SIGKILL at the item that the file names, the first time."""
    number, file = job
    if number == 5 and not Path(file).exists():
        Path(file).write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_at_five(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exit_at_five(number):
    if number == 5:
        os._exit(3)
    return number


def write_name(job):
    """Note the call in a folder, each time that it is made, and return what it is known by."""
    number, folder = job
    key = current_run().key
    (Path(folder) / f"{key}-{time.monotonic_ns()}-{os.getpid()}").write_text(str(number))
    time.sleep(0.01)
    return key


class OddError(Exception):
    """It pickles, and does not unpickle."""

    def __init__(self, first, second):
        super().__init__(f"odd: {first} {second}")


class LockedError(Exception):
    """It does not pickle."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class RichError(Exception):
    """It comes back with what it has."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def raise_odd(_):
    raise OddError("a", "b")


def raise_locked(_):
    raise LockedError("locked")


def raise_rich(number):
    try:
        raise KeyError("cause")
    except KeyError as cause:
        raise RichError(number) from cause


def raise_exit(_):
    raise SystemExit(3)


def give_lock(_):
    return threading.Lock()


def _refuse():
    raise ValueError("no way back")


class OneWay:
    """It pickles, and does not unpickle."""

    def __reduce__(self):
        return _refuse, ()


def give_one_way(_):
    return OneWay()


def both(first, second):
    return first is second["same"]


def length(text):
    return len(text)

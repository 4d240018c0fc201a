"""The place in user code where a run was started: its log lines name it instead of a place in the library.

Events are emitted in the library's own tasks, whose stacks need not contain user code. But user code makes the
call that starts a run, so the place is looked up there, once per run.
"""

import sys
from types import FrameType

from trioflow.events import Place


def find_caller() -> Place | None:
    """Return the place in user code that the current call came from; None if Trio made it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - a traceback or `inspect.stack` costs a hundred times as much
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package == "trio":
            return None
        # Generator-based context managers put a frame of contextlib between the user's frame and ours.
        if package not in {"trioflow", "contextlib"}:
            code = frame.f_code
            return Place(module, code.co_filename, code.co_name, frame.f_lineno)
        frame = frame.f_back
    return None

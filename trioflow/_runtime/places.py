"""Where in the user's code a run was started: what its log lines name instead of a place in the library.

Events come from the library's own tasks, on whose stacks the user's code need not be. The user's code makes the
call that starts a run, so the place is looked for there, once a run.
"""

import sys
from types import FrameType

from trioflow.events import Place


def find_caller() -> Place | None:
    """Return the place in the user's code that the call in progress came from; None where Trio made it."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - a traceback or `inspect.stack` costs a hundred times as much
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package == "trio":
            return None
        # Context managers made of generators have a frame of contextlib between the user's frame and ours.
        if package not in {"trioflow", "contextlib"}:
            code = frame.f_code
            return Place(module, code.co_filename, code.co_name, frame.f_lineno)
        frame = frame.f_back
    return None

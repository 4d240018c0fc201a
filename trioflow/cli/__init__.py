"""The command line: `trioflow runs list --store sqlite:///runs.db`, or `python -m trioflow`.

It needs the extra `cli` (cyclopts and rich), which is imported when it is used.
"""

import sys
from collections.abc import Sequence

from trioflow.cli._runs import delete, history, list_runs, prune, show, vacuum
from trioflow.errors import ConfigError, TrioflowError

__all__ = ("main", "program")


def program() -> int:
    """Run the command that the process was started with, and return the exit status; see `main`."""
    try:
        return main()
    except ImportError as error:
        _complain(str(error))
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name, those of the process by default, and return the exit status.

    0 is success, 1 what is not there, is damaged or cannot be done, 2 a command that makes no sense.

    Raises:
        ImportError: the extra `cli` is not installed.
    """
    try:
        import cyclopts  # noqa: PLC0415 - the extra
        import rich  # noqa: F401, PLC0415 - the extra
    except ImportError as error:
        message = "the command line needs the extra `cli`: pip install 'trioflow[cli]'"
        raise ImportError(message) from error
    app = cyclopts.App(name="trioflow", help="Look at the runs that a store keeps, and clear them away.")
    runs = cyclopts.App(name="runs", help="The runs in a checkpoint store.")
    app.command(runs)
    for command in (list_runs, show, history, delete, prune, vacuum):
        runs.command(command, name=command.__name__.removesuffix("_runs"))
    try:
        status = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except cyclopts.CycloptsError:
        return 2
    except TrioflowError as error:
        _complain(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    return status if isinstance(status, int) else 0


def _complain(message: str) -> None:
    print(f"trioflow: {message}", file=sys.stderr)  # noqa: T201 - a command line prints

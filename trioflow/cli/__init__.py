"""The command line: `trioflow runs list --store sqlite:///runs.db`, or `python -m trioflow`.

Each group of commands is one file. Errors are one line on standard error. Needs the extra `cli` (cyclopts and
rich), which is imported on use.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from trioflow._text import escape
from trioflow.cli import _graphs, _page, _runs, _service, _traces, _whatif
from trioflow.cli._printing import say
from trioflow.errors import ConfigError, TrioflowError

__all__ = ("main", "program")

_GROUPS: dict[str, tuple[str, Sequence[Callable[..., int]]]] = {
    "runs": (
        "The runs in a checkpoint store.",
        (
            _runs.list_runs,
            _runs.show,
            _runs.history,
            _runs.delete,
            _runs.prune,
            _runs.vacuum,
            _service.submit,
            _service.signal,
            _service.cancel,
        ),
    ),
    "graph": ("A graph in a module.", (_graphs.mermaid, _graphs.validate)),
    "trace": ("A trace written by TraceObserver.", (_traces.summary,)),
}


def program() -> int:
    """Run the command of this process, and return the exit status; see `main`."""
    try:
        status = main()
        sys.stdout.flush()
    except ImportError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of the output is gone. Python would report that again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`, by default those of the process, and return the exit status.

    0 is success, 1 something that is missing, is damaged or failed, 2 wrong usage.

    Raises:
        ImportError: the extra `cli` is not installed.
    """
    try:
        import cyclopts  # noqa: PLC0415 - the extra
        import rich  # noqa: F401, PLC0415 - the extra
    except ImportError as error:
        message = "the command line needs the extra `cli`: pip install 'trioflow[cli]'"
        raise ImportError(message) from error
    app = cyclopts.App(name="trioflow", help="Inspect runs, graphs and traces, delete runs, and serve graphs.")
    for name, (description, commands) in _GROUPS.items():
        group = cyclopts.App(name=name, help=description)
        app.command(group)
        for command in commands:
            group.command(command, name=command.__name__.removesuffix("_runs"))
    app.command(_whatif.whatif)
    app.command(_service.serve)
    app.command(_page.ui)

    def completion(shell: Literal["bash", "fish", "zsh"]) -> int:
        """Print a shell's completion script: eval "$(trioflow completion bash)".

        Args:
            shell: the shell; zsh wants the script in a file _trioflow in its fpath.
        """
        say(app.generate_completion(prog_name="trioflow", shell=shell))
        return 0

    app.command(completion)
    try:
        tokens = sys.argv[1:] if arguments is None else arguments
        status = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        _complain(" ".join(escape(str(error)).replace("\\n", " ").split()))
        return 2
    except ImportError as error:
        # The driver of the store needs an extra, which the message names.
        _complain(str(error))
        return 1
    except TrioflowError as error:
        _complain(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    return status if isinstance(status, int) else 0


def _complain(message: str) -> None:
    print(f"trioflow: {message}", file=sys.stderr)  # noqa: T201 - a command line prints

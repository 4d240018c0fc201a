"""`python -m trioflow`: the command line."""

import sys

from trioflow.cli import program

sys.exit(program())

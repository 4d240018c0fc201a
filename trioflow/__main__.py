"""`python -m trioflow`: the command line."""

import sys

from trioflow.cli import main

sys.exit(main())

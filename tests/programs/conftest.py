"""Programs as a user of the SDKs would write them, each run against servers on loopback.

A program is what stands in its file before the tests. Only `import trioflow` is used of the library. Time is real
here, since other processes and sockets do not know a test's clock; so delays are milliseconds. The servers are those
of the cookbook, whose programs have their tests in `tests/cookbook`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "cookbook"))

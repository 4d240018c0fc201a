"""What tests of programs that use trioflow can use: scripted processors, faulty stores, events, and assertions.

It needs nothing beside trioflow, and any test runner serves. For stores of one's own there is a conformance suite,
which runners that collect classes of test methods, such as pytest, run.
"""

from trioflow.observers.recording import RecordingObserver
from trioflow.testing._accounting import assert_accounted
from trioflow.testing._conformance import CheckpointStoreConformance, ServiceStoreConformance
from trioflow.testing._faulty import FaultyStore
from trioflow.testing._scripted import Answer, ScriptedCall, ScriptedProcessor

__all__ = (
    "Answer",
    "CheckpointStoreConformance",
    "FaultyStore",
    "RecordingObserver",
    "ScriptedCall",
    "ScriptedProcessor",
    "ServiceStoreConformance",
    "assert_accounted",
)

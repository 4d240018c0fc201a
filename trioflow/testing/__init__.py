"""Helpers for tests of programs that use trioflow: scripted processors, faulty stores, events, and assertions.

Needs nothing beside trioflow, and works with any test runner. For custom stores there is a conformance suite, for
runners that collect classes of test methods, such as pytest.
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

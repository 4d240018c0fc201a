"""What tests of programs that use trioflow can use: a conformance suite for stores of one's own.

It needs nothing beside trioflow; any test runner that collects classes of test methods, such as pytest, runs it.
"""

from trioflow.testing._conformance import CheckpointStoreConformance

__all__ = ("CheckpointStoreConformance",)

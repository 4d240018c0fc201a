"""What every `CheckpointStore` must do, as test cases: subclass, say how a store is opened, and run them.

::

    class TestMyStore(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            async with MyStore(...) as store:
                yield store

The cases are the test methods of the classes in `_cases`, one class for each thing that a store does.
"""

from trioflow.testing._cases import EndingCases, FencingCases, ItemCases, RunCases, StepCases

__all__ = ("CheckpointStoreConformance",)


class CheckpointStoreConformance(FencingCases, StepCases, RunCases, ItemCases, EndingCases):
    """Test cases for a store: its epochs, its checkpoints, its items, and what it does with odd values.

    Subclass it under a name that the test runner collects, and override `open_store`.
    """

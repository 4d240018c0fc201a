"""What every `CheckpointStore` must do, as test cases: subclass, say how a store is opened, and run them.

::

    class TestMyStore(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            async with MyStore(...) as store:
                yield store

Where a second `open_store()` gives a store on the same storage, as one on a file or a server does, what two of
them do to each other is tried, too, and what is left after closing; `durable = True` in the class says that it
must.

The cases are the test methods of the classes in `_cases`, one class for each thing that a store does.
"""

from trioflow.testing._cases import (
    EndingCases,
    FencingCases,
    ItemCases,
    RunCases,
    ServiceCases,
    SharingCases,
    StepCases,
)


class CheckpointStoreConformance(
    FencingCases, StepCases, RunCases, ItemCases, EndingCases, SharingCases
):
    """Test cases for a store: its epochs, its checkpoints, its items, and what it does with odd values.

    Subclass it under a name that the test runner collects, and override `open_store`; set `durable = True` where
    what a store saves outlives it.
    """


class ServiceStoreConformance(ServiceCases):
    """Test cases for what a store does for a service: its queue, leases, signals and timers.

    Beside `CheckpointStoreConformance`, for a store that is a `ServiceStore`; subclass it in the same way.
    """

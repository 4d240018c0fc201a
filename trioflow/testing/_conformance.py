"""Conformance tests for every `CheckpointStore`: subclass, override `open_store`, and run them.

::

    class TestMyStore(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            async with MyStore(...) as store:
                yield store

If a second `open_store()` opens the same storage, as for a file or a server, the interaction of two stores is
tested too, and what persists after closing; `durable = True` in the class requires that.

The cases are the test methods of the classes in `_cases`, one class for each capability of a store.
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
    """Test cases for a store: its epochs, checkpoints and items, and unusual values.

    Subclass it under a name that the test runner collects, and override `open_store`; set `durable = True` if
    saved data outlives the store object.
    """


class ServiceStoreConformance(ServiceCases):
    """Test cases for a `ServiceStore`: its queue, leases, signals and timers.

    Use it in addition to `CheckpointStoreConformance`; subclass it in the same way.
    """

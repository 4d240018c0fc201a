"""The cases of the conformance suite: test methods, in a class for each capability of a store."""

from trioflow.testing._cases._support import StoreCases
from trioflow.testing._cases.ending import EndingCases
from trioflow.testing._cases.fencing import FencingCases
from trioflow.testing._cases.items import ItemCases
from trioflow.testing._cases.runs import RunCases
from trioflow.testing._cases.service import ServiceCases
from trioflow.testing._cases.sharing import SharingCases
from trioflow.testing._cases.steps import StepCases

__all__ = (
    "EndingCases",
    "FencingCases",
    "ItemCases",
    "RunCases",
    "ServiceCases",
    "SharingCases",
    "StepCases",
    "StoreCases",
)

"""Runs that outlive a process: submitted to a store, and executed by any process that serves it."""

from trioflow.service.client import ServiceClient, service_client
from trioflow.service.service import Service, open_service

__all__ = ("Service", "ServiceClient", "open_service", "service_client")

"""Persistence: checkpoints of runs, the stores, and their registry."""

from trioflow.checkpoint.memory import MemoryStore
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, CheckpointStore, RunInfo
from trioflow.checkpoint.registry import get_checkpoint_store, register_checkpoint_store
from trioflow.checkpoint.service_protocol import ServiceStore

__all__ = (
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointStore",
    "MemoryStore",
    "RunInfo",
    "ServiceStore",
    "get_checkpoint_store",
    "register_checkpoint_store",
)

"""Settings: frozen structs, validated on construction, loaded from files and merged."""

from trioflow.config.files import load_config, merge, to_schema
from trioflow.config.structs import (
    ChainConfig,
    CheckpointConfig,
    ConditionalConfig,
    GraphConfig,
    HubConfig,
    ParallelConfig,
    RetryConfig,
    ServiceConfig,
)

__all__ = (
    "ChainConfig",
    "CheckpointConfig",
    "ConditionalConfig",
    "GraphConfig",
    "HubConfig",
    "ParallelConfig",
    "RetryConfig",
    "ServiceConfig",
    "load_config",
    "merge",
    "to_schema",
)

"""Settings: the defaults, what each field allows, and that both roads into a struct check alike."""

import math

import msgspec
import pytest

from trioflow import (
    ChainConfig,
    CheckpointConfig,
    ConditionalConfig,
    ConfigError,
    ExecutionError,
    GraphConfig,
    HubConfig,
    ParallelConfig,
    RetryConfig,
    State,
    StateGraph,
    get_checkpoint_store,
)

DEFAULTS = [
    (
        ParallelConfig(),
        {
            "max_workers": 0,
            "worker_cap": 16,
            "fail_fast": True,
            "max_failures": None,
            "buffer": 0,
            "raise_if_all_failed": True,
            "timeout": None,
            "task_timeout": None,
            "max_per_second": None,
            "burst": 1,
            "retry": None,
            "checkpoint": None,
            "observer": "loguru",
        },
    ),
    (
        ChainConfig(),
        {
            "capture_intermediate_states": False,
            "task_timeout": None,
            "retry": None,
            "checkpoint": None,
            "observer": "loguru",
        },
    ),
    (ConditionalConfig(), {"observer": "loguru"}),
    (
        GraphConfig(name="g"),
        {
            "name": "g",
            "max_iterations": 1000,
            "task_timeout": None,
            "retry": None,
            "checkpoint": CheckpointConfig(),
            "observer": "loguru",
        },
    ),
    (CheckpointConfig(), {"store": "memory", "interval": None, "preserve": False, "flush_interval": 0.05}),
    (
        RetryConfig(),
        {
            "max_attempts": 3,
            "initial_delay": 0.1,
            "max_delay": 30.0,
            "multiplier": 2.0,
            "jitter": True,
            "total_timeout": None,
        },
    ),
    (
        HubConfig(),
        {
            "name": "default",
            "buffer": 100,
            "overflow": "wait",
            "timeout": 30.0,
            "drain_timeout": 30.0,
            "max_handlers": 16,
            "handler_timeout": None,
            "observer": "loguru",
        },
    ),
]


@pytest.mark.parametrize(("config", "fields"), DEFAULTS)
def test_defaults(config, fields):
    assert msgspec.structs.asdict(config) == fields


@pytest.mark.parametrize("config", [config for config, _ in DEFAULTS])
def test_frozen_keyword_only_and_strict(config):
    with pytest.raises(AttributeError):
        config.observer = "noop"
    with pytest.raises(TypeError):
        type(config)("positional")
    with pytest.raises(TypeError):
        type(config)(unknown=1)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"name": "g", "unknown": 1}' if "Graph" in repr(config) else b'{"unknown": 1}', type=type(config))


REFUSED = [
    (ParallelConfig, "max_workers", [-1, 1.5, True, "4", None], "0 (auto) or more"),
    (ParallelConfig, "worker_cap", [0, -1, 2.0], "1 or more"),
    (ParallelConfig, "fail_fast", [1, None, "yes"], "True or False"),
    (ParallelConfig, "buffer", [-1, True], "0 (as many as workers) or more"),
    (ParallelConfig, "timeout", [0, -1, math.nan, math.inf, "1", True], "a positive number of seconds or None"),
    (ParallelConfig, "task_timeout", [0, 0.0, -0.1], "a positive number of seconds or None"),
    (ParallelConfig, "max_per_second", [0, -1, math.inf], "a positive number or None"),
    (ParallelConfig, "burst", [0, -1, math.nan, None, "1"], "a positive number"),
    (ParallelConfig, "max_failures", [0, -1], "1 or more, or None (any number)"),
    (ParallelConfig, "max_failures", [True, 1.0, "3"], "a whole number, 1 or more, or None (any number)"),
    (ParallelConfig, "raise_if_all_failed", [0, None], "True or False"),
    (ParallelConfig, "retry", [{}, 3], "a RetryConfig or None"),
    (ParallelConfig, "checkpoint", [{}, "memory"], "a CheckpointConfig or None"),
    (ParallelConfig, "observer", ["", "  ", 3, None], "the name of a registered observer"),
    (ChainConfig, "capture_intermediate_states", [1], "True or False"),
    (ChainConfig, "task_timeout", [0], "a positive number of seconds or None"),
    (ChainConfig, "retry", ["x"], "a RetryConfig or None"),
    (ChainConfig, "checkpoint", ["x"], "a CheckpointConfig or None"),
    (ChainConfig, "observer", [""], "the name of a registered observer"),
    (ConditionalConfig, "observer", [""], "the name of a registered observer"),
    (GraphConfig, "name", ["", " ", 3], "a non-empty string"),
    (GraphConfig, "max_iterations", [0, -1], "1 or more"),
    (GraphConfig, "task_timeout", [0], "a positive number of seconds or None"),
    (GraphConfig, "checkpoint", [None], "a CheckpointConfig"),
    (CheckpointConfig, "store", [""], "the name or URL of a checkpoint store"),
    (CheckpointConfig, "interval", [-1, 0.5], "0 (off) or more, or None (every step where store is set)"),
    (CheckpointConfig, "preserve", [0], "True or False"),
    (CheckpointConfig, "flush_interval", [0, None], "a positive number of seconds"),
    (RetryConfig, "max_attempts", [0, -1], "1 or more"),
    (RetryConfig, "initial_delay", [0, -1, None], "a positive number of seconds"),
    (RetryConfig, "max_delay", [0, math.inf], "a positive number of seconds"),
    (RetryConfig, "multiplier", [0, -2], "a positive number"),
    (RetryConfig, "jitter", [None], "True or False"),
    (RetryConfig, "total_timeout", [0, -1, math.inf, "1"], "a positive number of seconds or None"),
    (HubConfig, "name", [""], "a non-empty string"),
    (HubConfig, "buffer", [0, -1], "1 or more"),
    (HubConfig, "overflow", ["", "block", 3], "one of 'wait', 'drop', 'error'"),
    (HubConfig, "timeout", [0, None], "a positive number of seconds"),
    (HubConfig, "drain_timeout", [0], "a positive number of seconds"),
    (HubConfig, "max_handlers", [0], "1 or more"),
    (HubConfig, "handler_timeout", [0, -1, math.nan], "a positive number of seconds or None"),
    (HubConfig, "observer", [""], "the name of a registered observer"),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "allowed"),
    [(kind, field, value, allowed) for kind, field, values, allowed in REFUSED for value in values],
)
def test_a_value_that_is_not_allowed_is_refused_on_construction(kind, field, value, allowed):
    required = {"name": "g"} if kind is GraphConfig else {}
    with pytest.raises(ConfigError) as caught:
        kind(**required | {field: value})
    assert f"{field} must be " in str(caught.value)
    assert allowed in str(caught.value)
    assert str(caught.value).endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (ParallelConfig, b'{"max_workers": -1}', "max_workers must be"),
        (ParallelConfig, b'{"retry": {"max_attempts": 0}}', r"max_attempts must be .* at `\$.retry`"),
        (HubConfig, b'{"overflow": "block"}', "Invalid enum value"),
        (GraphConfig, b"{}", "missing required field `name`"),
    ],
)
def test_decoding_checks_too(kind, text, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(text, type=kind)


def test_zero_is_legal_only_where_it_has_a_meaning():
    assert ParallelConfig(max_workers=0, buffer=0).buffer == 0
    assert CheckpointConfig(interval=0).interval == 0


async def test_a_graph_whose_config_names_a_store_is_kept_at_every_step(tmp_path):
    async def node(state):
        return state

    async def fail(state):
        raise OSError

    config = GraphConfig(name="g", observer="noop", checkpoint=CheckpointConfig(store=f"sqlite:///{tmp_path}/runs.db"))
    graph = StateGraph(config)
    graph.add_node("a", node)
    graph.add_node("b", fail)
    graph.add_edge("a", "b")
    graph.set_entry_point("a")
    graph.set_exit_point("b")
    with pytest.raises(ExecutionError):
        await graph.execute(State(), run_id="r")
    store = get_checkpoint_store(config.checkpoint.store)
    assert await store.history("r")
    await store.aclose()

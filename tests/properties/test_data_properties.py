"""Round trips and formats that hold for all data: settings, messages of errors, log lines."""

import string

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trioflow import (
    CheckpointConfig,
    ParallelConfig,
    ParallelError,
    ParallelResult,
    RetryConfig,
    TaskError,
    load_config,
    merge,
)
from trioflow._text import one_line

seconds = st.floats(0.001, 1e6)
retries = st.builds(
    RetryConfig,
    max_attempts=st.integers(1, 99),
    initial_delay=seconds,
    max_delay=seconds,
    multiplier=st.floats(0.1, 100),
    jitter=st.booleans(),
    total_timeout=st.none() | seconds,
)
checkpoints = st.builds(
    CheckpointConfig,
    store=st.text(string.ascii_letters, min_size=1),
    interval=st.none() | st.integers(0, 99),
    preserve=st.booleans(),
    flush_interval=seconds,
)
configs = st.builds(
    ParallelConfig,
    max_workers=st.integers(0, 9999),
    worker_cap=st.integers(1, 9999),
    fail_fast=st.booleans(),
    max_failures=st.none() | st.integers(1, 99),
    buffer=st.integers(0, 9999),
    raise_if_all_failed=st.booleans(),
    timeout=st.none() | seconds,
    task_timeout=st.none() | seconds,
    max_per_second=st.none() | seconds,
    burst=seconds,
    retry=st.none() | retries,
    checkpoint=st.none() | checkpoints,
    observer=st.sampled_from(["noop", "loguru"]),
)


@given(configs)
def test_a_config_comes_back_equal_from_json_and_yaml(config):
    for codec, format in ((msgspec.json, "json"), (msgspec.yaml, "yaml")):
        assert load_config(codec.encode(config), ParallelConfig, format=format) == config


@given(configs, configs)
def test_merging_all_of_a_config_gives_that_config(base, other):
    assert merge(base, msgspec.structs.asdict(other)) == other
    assert merge(base, msgspec.to_builtins(other)) == other
    assert merge(base, {}) == base


def group_of(messages):
    errors = [TaskError(index, None, ValueError(message), 1) for index, message in enumerate(messages)]
    return ParallelError(errors, ParallelResult([], [], errors, [], len(errors)))


@given(st.lists(st.text() | st.sampled_from(["a", "b", "c"]), min_size=1, max_size=40))
def test_the_message_of_a_parallel_error_is_one_bounded_line_that_counts_right(messages):
    error = group_of(messages)
    text = str(error)
    assert "\n" not in text
    assert len(text) < 3000
    categories = error.report.categories
    assert sum(category.count for category in categories) == len(messages)
    assert [(-category.count, category.first_index) for category in categories] == sorted(
        (-category.count, category.first_index) for category in categories
    )
    if len(messages) == 1:
        assert text == f"parallel execution failed: item 0: {one_line(messages[0] or 'ValueError')}"
    else:
        assert text.startswith(f"parallel execution failed: {len(messages)} items failed with ")
        assert text.endswith(f", and {len(categories) - 10} more") == (len(categories) > 10)
    msgspec.json.encode(error.report)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.sampled_from("abc"))
def test_splitting_keeps_every_error_in_one_half(messages, wanted):
    error = group_of(messages)
    matched, rest = error.split(lambda leaf: str(leaf) == wanted)
    kept = [failure.index for half in (matched, rest) if half for failure in half.errors]
    assert sorted(kept) == list(range(len(messages)))
    for half in (matched, rest):
        if half is not None:
            assert [failure.error for failure in half.errors] == list(half.exceptions)


@given(st.text(st.characters()))
def test_one_line_has_no_line_end_control_or_lone_surrogate(text):
    line = one_line(text)
    assert len(line) <= 200
    assert len(line.splitlines()) <= 1
    line.encode()
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)

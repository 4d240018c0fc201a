"""Settings from files, settings over settings, and their schema."""

import subprocess
import sys

import msgspec
import pytest

from trioflow import (
    ConfigError,
    GraphConfig,
    HubConfig,
    ParallelConfig,
    RetryConfig,
    load_config,
    merge,
    to_schema,
)

EXPECTED = ParallelConfig(max_workers=8, fail_fast=False, retry=RetryConfig(max_attempts=5))
JSON = b'{"max_workers": 8, "fail_fast": false, "retry": {"max_attempts": 5}}'
TOML = b"max_workers = 8\nfail_fast = false\n[retry]\nmax_attempts = 5\n"
YAML = b"max_workers: 8\nfail_fast: false\nretry:\n  max_attempts: 5\n"


@pytest.mark.parametrize(
    ("name", "content"), [("c.json", JSON), ("c.toml", TOML), ("c.yaml", YAML), ("c.YML", YAML)]
)
def test_the_suffix_says_the_format(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert load_config(path, ParallelConfig) == EXPECTED
    assert load_config(str(path), ParallelConfig) == EXPECTED


@pytest.mark.parametrize(("format", "content"), [("json", JSON), ("toml", TOML), ("yaml", YAML), (None, JSON)])
def test_bytes_need_a_format_unless_they_are_json(format, content):
    assert load_config(content, ParallelConfig, format=format) == EXPECTED


def test_the_format_beats_the_suffix(tmp_path):
    path = tmp_path / "settings.conf"
    path.write_bytes(TOML)
    assert load_config(path, ParallelConfig, format="toml") == EXPECTED


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        (b"max_worker = 8", "toml", r"unknown key 'max_worker' at \$ \(did you mean 'max_workers'\?\), with value 8"),
        (b"[retry]\nattempts = 8", "toml", r"unknown key 'attempts' at \$.retry.*one of max_attempts, "),
        (b"max_workers = -1", "toml", r"max_workers must be 0 \(auto\) or more, got -1"),
        (b"max_workers = 'x'", "toml", r"max_workers must be a whole number, 0 \(auto\) or more, got 'x' - at `\$.max_workers`"),
        (b"timeout = 'x'", "toml", r"timeout must be a positive number of seconds or None .*, got 'x'"),
        (b"retry = 3", "toml", r"retry must be a RetryConfig or None, got 3 - at `\$.retry`"),
        (b"[retry]\njitter = 1", "toml", r"jitter must be True or False, got 1 - at `\$.retry.jitter`"),
        (b"[retry]\nmax_attempts = 0", "toml", r"max_attempts must be 1 or more, got 0 - at `\$.retry.max_attempts`"),
        (b"max_workers = ", "toml", "Invalid value"),
        (b'{"max', "json", "truncated"),
        (b"[1]", "json", "Expected `object`"),
        (b"a: [", "yaml", "while parsing"),
        (b"\xff", "toml", "decode"),
        (b"timeout: .nan", "yaml", "timeout must be a positive number"),
        (b"{}", "ini", "format must be one of 'json', 'toml', 'yaml', got 'ini'"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_a_config_error(tmp_path, content, format, message):
    path = tmp_path / f"settings.{format}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, ParallelConfig)
    assert str(path) in str(caught.value)


def test_an_unknown_key_is_named_with_what_is_allowed():
    with pytest.raises(ConfigError) as caught:
        load_config(b'{"max_worker": 8}', ParallelConfig)
    assert (caught.value.field, caught.value.value) == ("max_worker", 8)
    assert "max_workers, worker_cap" in caught.value.allowed


def test_a_file_that_is_nested_too_deep_is_a_config_error():
    with pytest.raises(ConfigError, match="<bytes>"):
        load_config(b'{"retry":' * 100_000, ParallelConfig)


def test_a_file_that_is_not_there_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.toml", ParallelConfig)


def test_yaml_without_its_library_names_the_extra():
    code = (
        "import sys; sys.modules['yaml'] = None\n"
        "from trioflow import ParallelConfig, load_config\n"
        "try: load_config(b'{}', ParallelConfig, format='yaml')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "pip install 'trioflow[yaml]'" in done.stdout


def test_merge_sets_only_what_is_given():
    base = ParallelConfig(max_workers=8, retry=RetryConfig(max_attempts=5))
    merged = merge(base, {"fail_fast": False, "retry": {"jitter": False}})
    assert merged == ParallelConfig(
        max_workers=8, fail_fast=False, retry=RetryConfig(max_attempts=5, jitter=False)
    )
    assert merge(base, {}) == base


def test_merge_makes_a_nested_struct_where_there_was_none_and_takes_one_away():
    assert merge(ParallelConfig(), {"retry": {"max_attempts": 2}}).retry == RetryConfig(max_attempts=2)
    assert merge(ParallelConfig(retry=RetryConfig()), {"retry": None}).retry is None
    assert merge(ParallelConfig(), {"retry": RetryConfig(max_attempts=9)}).retry.max_attempts == 9
    assert merge(GraphConfig(name="g"), {"checkpoint": {"interval": 3}}).checkpoint.interval == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"max_workers": -1}, "override: max_workers must be"),
        ({"retry": {"max_attempts": 0}}, "override: max_attempts must be"),
        ({"workers": 1}, r"override: unknown key 'workers' at \$"),
        ({"max_workers": "4"}, "override: max_workers must be a whole number, 0 .auto. or more, got '4'"),
        ({"retry": {"max_attempts": "4"}}, "override: max_attempts must be a whole number, 1 or more, got '4'"),
        ({"observer": None}, "override: observer must be the name of a registered observer, got None"),
        ([("max_workers", 3)], "override must be a Mapping"),
    ],
)
def test_merge_refuses_what_is_not_allowed(override, message):
    with pytest.raises(ConfigError, match=message):
        merge(ParallelConfig(), override)


class Mine(msgspec.Struct):
    name: str
    size: int = 1
    run: ParallelConfig = ParallelConfig()
    tags: list[int] = []


@pytest.mark.parametrize(
    ("data", "message", "field", "value"),
    [
        ({"name": "x", "size": "y"}, "size must be `int`, got 'y' - at `$.size`", "size", "y"),
        ({"name": 3}, "name must be `str`, got 3 - at `$.name`", "name", 3),
        ({"name": "x", "tags": [1, "2"]}, "Expected `int`, got `str` - at `$[1]`), got [1, '2'] - at `$.tags`", "tags", [1, "2"]),
        ({"name": "x", "run": {"retry": {"jitter": 0}}}, "jitter must be True or False, got 0", "jitter", 0),
        ({}, "missing required field `name`", None, None),
    ],
)
def test_structs_of_ones_own_are_refused_alike(data, message, field, value):
    with pytest.raises(ConfigError) as caught:
        load_config(msgspec.json.encode(data), Mine)
    assert message in str(caught.value)
    assert (caught.value.field, caught.value.value) == (field, value)


def test_a_required_field_that_is_missing_does_not_hide_another_mistake():
    with pytest.raises(ConfigError, match="missing required field `name`|max_iterations must be"):
        load_config(b'{"max_iterations": "x"}', GraphConfig)
    with pytest.raises(ConfigError, match=r"max_iterations must be a whole number, 1 or more, got 'x'"):
        load_config(b'{"name": "g", "max_iterations": "x"}', GraphConfig)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_config(b"{}", dict),
        lambda: load_config(None, ParallelConfig),
        lambda: merge({}, {}),
        lambda: to_schema(ParallelConfig()),
    ],
)
def test_what_is_no_struct_and_no_file_is_refused(call):
    with pytest.raises(ConfigError, match="must be a"):
        call()


def test_the_schema_names_every_field():
    schema = to_schema(ParallelConfig)
    (definition,) = [d for name, d in schema["$defs"].items() if name == "ParallelConfig"]
    assert set(definition["properties"]) == {field.name for field in msgspec.structs.fields(ParallelConfig)}
    assert definition["additionalProperties"] is False
    assert to_schema(HubConfig)["$defs"]["HubConfig"]["properties"]["overflow"]["enum"] == ["drop", "error", "wait"]

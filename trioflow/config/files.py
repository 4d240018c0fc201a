"""Loads settings from files, merges them, and gives their JSON Schema: msgspec does the work.

This module adds one kind of error: whatever is wrong with a file or an override is a `ConfigError` that names
the path. msgspec reports only the expected type, while the structs' own checks report what is allowed, so a
rejected value goes through those checks once more.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from trioflow._text import one_line
from trioflow.config import checks
from trioflow.config.structs import Settings
from trioflow.errors import ConfigError

__all__ = ("load_config", "merge", "to_schema")

C = TypeVar("C", bound=msgspec.Struct)

_FORMATS = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def load_config(
    path_or_bytes: str | os.PathLike[str] | bytes, type: type[C], *, format: str | None = None
) -> C:
    """Load settings from a JSON, TOML or YAML file, or from bytes.

    Args:
        path_or_bytes: a path, or the content itself.
        type: the struct to decode.
        format: "json", "toml" or "yaml"; None infers it from the file's suffix, and is JSON for bytes.

    Raises:
        ConfigError: the format is unknown, or the content does not fit `type`; names the file and the path in it.
        OSError: the file cannot be read.
        ImportError: reading YAML without the extra `yaml`.
    """
    _check_struct("type", type)
    data: Any = None
    if isinstance(path_or_bytes, bytes):
        name, content = "<bytes>", path_or_bytes
        chosen = format or "json"
    else:
        if not isinstance(path_or_bytes, str | os.PathLike):
            raise ConfigError.refusing("path_or_bytes", path_or_bytes, "a path or bytes")
        path = Path(path_or_bytes)
        name, content = str(path), path.read_bytes()
        chosen = format or _FORMATS.get(path.suffix.lower(), path.suffix.lstrip("."))
    try:
        checks.check_choice("format", chosen, ("json", "toml", "yaml"))
        decode = _decoder(chosen)
        data = decode(content, Any)
        _refuse_unknown(data, type, "$")
        settings: C = decode(content, type)
    except (ConfigError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _placed(name, error, data, type) from error
    return settings


def merge(base: C, override: Mapping[str, Any]) -> C:
    """Return `base` with the fields that `override` sets; nested structs merge field by field.

    Raises:
        ConfigError: a key is not a field, or a value is not allowed; names the path.
    """
    checks.check_instance("base", base, msgspec.Struct)
    checks.check_instance("override", override, Mapping)
    try:
        _refuse_unknown(override, type(base), "$")
        return msgspec.convert(_overlaid(base, override), type(base))
    except (ConfigError, msgspec.ValidationError) as error:
        raise _placed("override", error, _overlaid(base, override), type(base)) from error


def to_schema(type: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a config struct.

    Raises:
        ConfigError: `type` is not a struct.
    """
    _check_struct("type", type)
    return msgspec.json.schema(type)


def _decoder(format: str) -> Callable[[bytes, Any], Any]:
    if format == "json":
        return lambda content, kind: msgspec.json.decode(content, type=kind)
    if format == "toml":
        return lambda content, kind: msgspec.toml.decode(content, type=kind)
    return _decode_yaml


def _decode_yaml(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.yaml.decode(content, type=kind)
    except ImportError as error:
        message = "reading YAML needs the extra 'yaml': pip install 'trioflow[yaml]'"
        raise ImportError(message) from error


def _refuse_unknown(data: object, kind: Any, path: str) -> None:
    """Reject keys that are not fields, and list the fields, which msgspec's own message does not."""
    struct = _struct_in(kind)
    if struct is None or not isinstance(data, Mapping):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in data.items():
        if key not in fields:
            raise _unknown_key(path, key, value, list(fields))
        _refuse_unknown(value, fields[key], f"{path}.{key}")


def _unknown_key(path: str, key: object, value: object, known: list[str]) -> ConfigError:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    allowed = f"one of {', '.join(known)}"
    given = f"{one_line(repr(key))} at {path}{hint}, with value {one_line(repr(value))}"
    message = f"unknown key {given}; keys must be {allowed}"
    return ConfigError(message, field=str(key), value=value, allowed=allowed)


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    candidates = (kind, *get_args(kind))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def _placed(place: str, error: Exception, data: object, kind: Any) -> ConfigError:
    refused = error if isinstance(error, ConfigError) else _refused_value(data, kind, "$")
    if refused is None:
        return ConfigError(f"{place}: {error}")
    return ConfigError(
        f"{place}: {refused}", field=refused.field, value=refused.value, allowed=refused.allowed
    )


def _refused_value(data: object, kind: Any, path: str) -> ConfigError | None:
    """Return the error of the first value in `data` that does not fit; None if no single value is at fault."""
    struct = _struct_in(kind)
    if struct is None or not isinstance(data, Mapping):
        return None
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in data:
            continue
        value, place = data[field.encode_name], f"{path}.{field.encode_name}"
        nested = _refused_value(value, field.type, place)
        if nested is not None:
            return nested
        refused = _refused_field(struct, field, data, value)
        if refused is not None:
            message = f"{refused} - at `{place}`"
            return ConfigError(message, field=refused.field, value=value, allowed=refused.allowed)
    return None


def _refused_field(
    struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo, data: Mapping[str, Any], value: Any
) -> ConfigError | None:
    try:
        if issubclass(struct, Settings) and not isinstance(value, Mapping):
            required = [other for other in msgspec.structs.fields(struct) if other.required]
            struct(**{other.name: data[other.encode_name] for other in required} | {field.name: value})
    except ConfigError as refused:
        return refused
    except KeyError:  # A required field is missing, so no struct can be constructed.
        pass
    try:
        msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        expected = re.fullmatch(r"Expected ([^,]+)(, got \S+)?", str(error))
        allowed = expected[1] if expected else f"what its type allows ({error})"
        return ConfigError.refusing(field.name, value, allowed)
    return None


def _check_struct(field: str, kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise ConfigError.refusing(field, kind, "a struct class, such as ParallelConfig")


def _overlaid(base: msgspec.Struct, override: Mapping[str, Any]) -> dict[str, Any]:
    merged = msgspec.structs.asdict(base)
    for field, value in override.items():
        current = merged.get(field)
        if isinstance(current, msgspec.Struct) and isinstance(value, Mapping):
            merged[field] = _overlaid(current, value)
        else:
            merged[field] = value
    return merged

"""Settings from files, settings over settings, and their JSON Schema: msgspec does the work.

What this adds is one kind of error: whatever is wrong with a file or an override is a `ConfigError` that names
the place.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from trioflow._text import one_line
from trioflow.config import checks
from trioflow.errors import ConfigError

__all__ = ("load_config", "merge", "to_schema")

C = TypeVar("C", bound=msgspec.Struct)

_FORMATS = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def load_config(
    path_or_bytes: str | os.PathLike[str] | bytes, type: type[C], *, format: str | None = None
) -> C:
    """Read settings from a JSON, TOML or YAML file, or from its bytes.

    Args:
        path_or_bytes: a path, or the content itself.
        type: the struct to read.
        format: "json", "toml" or "yaml"; None goes by the file's suffix, and takes bytes for JSON.

    Raises:
        ConfigError: the format is not known, or the content does not fit `type`; it names file and path.
        OSError: the file cannot be read.
        ImportError: YAML without the extra `yaml`.
    """
    if isinstance(path_or_bytes, bytes):
        name, content = "<bytes>", path_or_bytes
        chosen = format or "json"
    else:
        path = Path(path_or_bytes)
        name, content = str(path), path.read_bytes()
        chosen = format or _FORMATS.get(path.suffix.lower(), path.suffix.lstrip("."))
    try:
        checks.check_choice("format", chosen, ("json", "toml", "yaml"))
        decode = _decoder(chosen)
        _refuse_unknown(decode(content, Any), type, "$")
        settings: C = decode(content, type)
    except (ConfigError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _placed(name, error) from error
    return settings


def merge(base: C, override: Mapping[str, Any]) -> C:
    """Return `base` with the fields that `override` sets; nested structs merge field by field.

    Raises:
        ConfigError: a key is not a field, or a value is not allowed; it names the path.
    """
    checks.check_instance("override", override, Mapping)
    try:
        _refuse_unknown(override, type(base), "$")
        return msgspec.convert(_overlaid(base, override), type(base))
    except (ConfigError, msgspec.ValidationError) as error:
        raise _placed("override", error) from error


def to_schema(type: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a config struct."""
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
    """Refuse keys that are not fields, with the names that are: msgspec's own message has only the former."""
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


def _placed(place: str, error: Exception) -> ConfigError:
    refused = error if isinstance(error, ConfigError) else error.__cause__
    if isinstance(refused, ConfigError):
        return ConfigError(
            f"{place}: {error}", field=refused.field, value=refused.value, allowed=refused.allowed
        )
    return ConfigError(f"{place}: {error}")


def _overlaid(base: msgspec.Struct, override: Mapping[str, Any]) -> dict[str, Any]:
    merged = msgspec.structs.asdict(base)
    for field, value in override.items():
        current = merged.get(field)
        if isinstance(current, msgspec.Struct) and isinstance(value, Mapping):
            merged[field] = _overlaid(current, value)
        else:
            merged[field] = value
    return merged

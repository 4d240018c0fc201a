"""Escapes and bounds user text, so that it fits into one line of a log or an error message.

Messages of exceptions, names and values come from users and servers. Unescaped, a newline forges a log line and a
bidi control reorders one. Escaping keeps the text readable and on one line; `clip` bounds its length.
"""

import re
from collections.abc import Iterable

NAME_LIMIT = 10
"""Known names listed in a message."""

LINE_LIMIT = 200
"""Characters of user text in one message; longer text ends in an ellipsis."""

_SURROGATES = "\ud800-\udfff"
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls
    f"{_SURROGATES}]"
)
# An unencoded password may contain any character.
_USER_INFO = re.compile(r"(://[^:@/?#]*):.*@", re.DOTALL)
_PARAMETER = re.compile(r"((?:ssl)?password=)[^&]*", re.IGNORECASE | re.DOTALL)
_LONE_SURROGATE = re.compile(f"[{_SURROGATES}]")


def escape(text: str) -> str:
    r"""Return `text` with control characters written as Python escapes, such as ``\n`` and ``\x1b``."""
    return _UNSAFE.sub(_as_escape, text)


def escape_surrogates(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that it can be encoded as UTF-8."""
    return _LONE_SURROGATE.sub(_as_escape, text)


def clip(text: str, limit: int = LINE_LIMIT) -> str:
    """Return `text`; if longer than `limit`, cut to `limit` characters of which the last is an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def one_line(text: str) -> str:
    """Return `text` for one log line: escaped, then clipped."""
    # Escaping only lengthens, so the beginning is enough, however long the text is.
    return clip(escape(text[: LINE_LIMIT + 1]))


def without_secrets(url: str) -> str:
    """Return `url` without the passwords in its user info and its parameters."""
    return _PARAMETER.sub(r"\1…", _USER_INFO.sub(r"\1:…@", url))


def show(value: object) -> str:
    """Return the `repr` of `value` for one log line, or its type's name if the `repr` raises."""
    try:
        if type(value) in {str, bytes}:
            value = value[: LINE_LIMIT + 1]  # type: ignore[index]  # the rest would be clipped
        return one_line(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not replace the message
        return f"<{type(value).__name__}>"


def quote(name: object) -> str:
    """Return a name as a message shows it: a string in quotation marks, anything else as its `repr`."""
    return f"'{one_line(name)}'" if isinstance(name, str) else show(name)


def list_known(name: object, known: Iterable[object]) -> str:
    """Return, in brackets, a suggestion for the unknown `name` if a known name is close, and the known names."""
    import difflib  # noqa: PLC0415 - only an unknown name needs it

    names = list(known)
    texts = [n for n in names if isinstance(n, str)]
    near = difflib.get_close_matches(name, texts) if isinstance(name, str) else []
    listed = ", ".join(quote(n) for n in names[:NAME_LIMIT]) or "none"
    hidden = len(names) - NAME_LIMIT
    more = f" and {hidden} more" if hidden > 0 else ""
    guess = f"did you mean {' or '.join(quote(n) for n in near)}? " if near else ""
    return f"({guess}known: {listed}{more})"


def describe_error(error: BaseException) -> str:
    """Return the raw message of `error`, or its type's name if it is empty or `__str__` raises."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a broken __str__ must not replace the error
        return type(error).__name__


def _as_escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")

"""User text made safe: one bounded line that can go into a log or an error message.

Messages of exceptions, names and values come from users and servers. Raw, a newline forges a log line and a
bidi control reorders one. Escaping keeps the text readable and keeps it on its line; `clip` bounds it.
"""

import re
from collections.abc import Iterable

NAME_LIMIT = 10
"""Known names that a message lists."""

LINE_LIMIT = 200
"""Characters that a user's text may take in one message; longer text ends in an ellipsis."""

_SURROGATES = "\ud800-\udfff"
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls
    f"{_SURROGATES}]"
)
# A password that somebody did not encode may have anything in it.
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
    """Return `text`, cut to `limit` characters, the last of them an ellipsis, where it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def one_line(text: str) -> str:
    """Return `text` as it may stand in one log line: escaped, then clipped."""
    # Escaping only lengthens, so what is shown comes from the beginning: a long text costs no more than that.
    return clip(escape(text[: LINE_LIMIT + 1]))


def without_secrets(url: str) -> str:
    """Return `url` as it may be shown: without the password of its user, and those among its parameters."""
    return _PARAMETER.sub(r"\1…", _USER_INFO.sub(r"\1:…@", url))


def show(value: object) -> str:
    """Return the `repr` of `value` as it may stand in one log line, or its type's name where it has none."""
    try:
        if type(value) in {str, bytes}:
            value = value[: LINE_LIMIT + 1]  # type: ignore[index]  # the `repr` of more would not be shown
        return one_line(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide what the message is about
        return f"<{type(value).__name__}>"


def quote(name: object) -> str:
    """Return a name as a message shows it: a string in quotation marks, anything else by its `repr`."""
    return f"'{one_line(name)}'" if isinstance(name, str) else show(name)


def list_known(name: object, known: Iterable[object]) -> str:
    """Return the names that `name` might have been meant as: near misses first, then all, in brackets."""
    import difflib  # noqa: PLC0415 - only a wrong name pays for it

    names = list(known)
    texts = [n for n in names if isinstance(n, str)]
    near = difflib.get_close_matches(name, texts) if isinstance(name, str) else []
    listed = ", ".join(quote(n) for n in names[:NAME_LIMIT]) or "none"
    hidden = len(names) - NAME_LIMIT
    more = f" and {hidden} more" if hidden > 0 else ""
    guess = f"did you mean {' or '.join(quote(n) for n in near)}? " if near else ""
    return f"({guess}known: {listed}{more})"


def describe_error(error: BaseException) -> str:
    """Return the raw message of `error`, or its type's name where it has none or cannot say it."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure that it belongs to
        return type(error).__name__


def _as_escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")

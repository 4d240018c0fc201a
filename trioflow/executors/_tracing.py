"""Propagates the OpenTelemetry context to workers: spans that a call opens there are children of the caller's.

The context travels as W3C headers. A program that has not imported OpenTelemetry has no context to send; a worker
without it ignores the headers.
"""

import sys

Headers = dict[str, str]


def current_headers() -> Headers | None:
    """Return the headers of the current span; None if there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import propagate  # noqa: PLC0415 - the program has imported it already

    headers: Headers = {}
    propagate.inject(headers)
    return headers or None


def attach_headers(headers: Headers | None) -> None:
    """Make the context of the headers current; the caller discards its own context afterwards."""
    if headers is None:
        return
    try:
        from opentelemetry import context, propagate  # noqa: PLC0415 - only where the caller has it too
    except ImportError:
        return
    context.attach(propagate.extract(headers))

"""OpenTelemetry's context on its way elsewhere: what a call opens there is a child of the caller's span.

It goes as W3C headers. A program that has not imported OpenTelemetry has no context to send; where it is not
installed at the other end, the headers are left alone.
"""

import sys

Headers = dict[str, str]


def current_headers() -> Headers | None:
    """Return the headers of the span that is current here; None where there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import propagate  # noqa: PLC0415 - the program uses it, so it is there

    headers: Headers = {}
    propagate.inject(headers)
    return headers or None


def attach_headers(headers: Headers | None) -> None:
    """Make what the headers say the current context; who calls this throws it away afterwards."""
    if headers is None:
        return
    try:
        from opentelemetry import context, propagate  # noqa: PLC0415 - only where the caller has it too
    except ImportError:
        return
    context.attach(propagate.extract(headers))

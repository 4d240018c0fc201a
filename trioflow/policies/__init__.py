"""One call made safer: wrappers that bound its time, repeat it, and pace it."""

from trioflow.policies.rate import RateLimiter, with_rate_limit
from trioflow.policies.retry import with_retry
from trioflow.policies.timeout import with_timeout

__all__ = ("RateLimiter", "with_rate_limit", "with_retry", "with_timeout")

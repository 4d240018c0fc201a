"""Wrappers around one call: timeout, retry, rate limit, concurrency limit, budget."""

from trioflow.policies.budget import Budget, BudgetState, with_budget
from trioflow.policies.concurrency import with_concurrency_limit
from trioflow.policies.rate import RateLimiter, with_rate_limit
from trioflow.policies.retry import with_retry
from trioflow.policies.timeout import with_timeout

__all__ = (
    "Budget",
    "BudgetState",
    "RateLimiter",
    "with_budget",
    "with_concurrency_limit",
    "with_rate_limit",
    "with_retry",
    "with_timeout",
)

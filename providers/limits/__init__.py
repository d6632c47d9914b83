"""How fast a server may be asked: slots, limits per minute, retries, a breaker to stop all.

`Limiter.call` takes a call through all of it. Nothing in this package knows a vendor: a provider
says what a failure means by raising the errors of `providers.errors`, and passes on what a server
reports about its limits by `Limiter.observe`.
"""

from providers.limits.breaker import get_breakers
from providers.limits.evidence import CallContext
from providers.limits.limiter import Limiter, Limits, get_limiter
from providers.limits.rates import Quota
from providers.limits.retry import RetryPolicy, retry

__all__ = [
    "CallContext",
    "Limiter",
    "Limits",
    "Quota",
    "RetryPolicy",
    "get_breakers",
    "get_limiter",
    "retry",
]

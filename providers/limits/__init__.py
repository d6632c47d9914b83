"""How fast a server may be asked: slots, budgets per minute, patience and one switch to stop all.

`Limiter.call` takes a call through all of it. Nothing here knows a vendor; a provider says what a
failure means by raising the errors of `providers.errors` and what a server tells about its quota
by `Limiter.observe`.
"""

from providers.limits.bucket import Quota
from providers.limits.evidence import Errand
from providers.limits.limiter import Limiter, Limits, shared
from providers.limits.patience import Patience, persistently

__all__ = ["Errand", "Limiter", "Limits", "Patience", "Quota", "persistently", "shared"]

"""Whether a refused question about a server means that something is wrong with it.

A list of models that is missing, closed to this key or out of order for a moment says nothing about
chat. A wrong key, an address where nothing listens and an account without credit do.
"""

from __future__ import annotations

import re

from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ModelNotFound,
    ProviderError,
    RetryableError,
)
from providers.openai.calling import never_sent, status_code

_MISSING = frozenset({404, 405, 410, 501})
# OpenAI answers 401 with "Missing scopes: api.model.read" to a restricted key; others 403.
_SCOPE = re.compile(r"\bscopes?\b|permission|not permitted|restricted", re.IGNORECASE)
_ACCOUNT = re.compile(
    r"(invalid|incorrect|wrong|expired|revoked|unknown|malformed) (api[ -]?)?(key|token)"
    r"|(key|token) (is |was |has |been )*(invalid|incorrect|expired|revoked|disabled)"
    r"|country|region|deactivat|suspend|banned|blocked|disabled",
    re.IGNORECASE,
)


def is_open(error: ProviderError) -> bool:
    """Whether the server may be all right although it does not answer this question."""
    if isinstance(error, RetryableError):
        return not never_sent(error)
    if isinstance(error, AuthenticationFailed):
        return lacks_scope(error)
    return is_missing(error) or isinstance(error, (BadRequest, ModelNotFound))


def is_missing(error: ProviderError) -> bool:
    """Whether the server has no such endpoint."""
    return status_code(error) in _MISSING


def lacks_scope(error: ProviderError) -> bool:
    """Whether the key is good, and may not be used for this."""
    text = str(error)
    status = status_code(error)
    if status == 401:
        return _SCOPE.search(text) is not None
    return status == 403 and _ACCOUNT.search(text) is None

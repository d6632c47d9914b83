"""The error tree of the provider layer.

    ProviderError
    ├── RetryableError        the same call may succeed later; retried in one place only
    │   ├── RateLimited
    │   ├── Overloaded
    │   ├── TimedOut          (also a TimeoutError)
    │   └── ConnectionLost    (also a ConnectionError)
    │       └── Unreachable   no connection could be made at all
    ├── RequestError          fatal for this one call, the run continues
    │   ├── BadRequest        (also a ValueError)
    │   ├── ContextOverflow   (also a ValueError)
    │   ├── ContentFiltered
    │   ├── UnusableAnswer    an answer came, in no form that is known
    │   └── RequestFailed     failed after all retries, while other requests are answered
    ├── JobError              fatal for this one fine-tuning job
    │   ├── InvalidTrainingData (also a ValueError)
    │   └── TrainingFailed
    │       └── StorageFailed (also an OSError)
    ├── AmbiguousSubmission   a submission of unknown outcome: look for it before sending it again
    └── RunError              fatal for the run; it stops cleanly and can be resumed
        ├── AuthenticationFailed
        ├── QuotaExhausted
        ├── BudgetReached     the user's own cap, `budget_usd`
        ├── Halted            the user is stopping the run
        ├── Unsupported       the provider lacks this operation
        ├── ModelNotFound     (also a FileNotFoundError)
        ├── ModelDamaged      a tuned model's files are not those that were trained
        ├── AdapterNotApplied a server answers without the adapter that it was given
        ├── InvalidSettings   (also a ValueError)
        └── OutOfMemory       (also a MemoryError)

Every message names the offending value and the remedy, and never a secret.
"""

from __future__ import annotations

# Some errors also subclass the built-in error of their kind, so that code which knows nothing of
# this project can catch them: `except TimeoutError`, `except ValueError`.


class ProviderError(Exception):
    """Base of all errors that a provider raises."""


class RetryableError(ProviderError):
    """The call failed for a passing reason. `retry_after_s` is the server's hint, if it gives one.

    `given_up` says what was tried if this call used up its retries and may be at fault itself; it
    is None for a call that was stopped because of another one.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.given_up: str | None = None


class RateLimited(RetryableError):
    """Too many requests or tokens for the moment."""


class Overloaded(RetryableError):
    """The server is there but cannot take the request now."""


class TimedOut(RetryableError, TimeoutError):
    """No answer in time."""


class ConnectionLost(RetryableError, ConnectionError):
    """The connection could not be made, or it broke."""


class Unreachable(ConnectionLost):
    """No connection could be made, so the request is not at fault."""


class RequestError(ProviderError):
    """This request can never succeed; others can."""


class BadRequest(RequestError, ValueError):
    """The provider refuses the request as malformed."""


class ContextOverflow(RequestError, ValueError):
    """Prompt and answer do not fit into the model's context."""


class ContentFiltered(RequestError):
    """The provider refuses to answer this content."""


class UnusableAnswer(RequestError):
    """The server answered in a form that is not known; a retry would bring the same."""


class RequestFailed(RequestError):
    """This request failed after all retries, although the server answers others."""


class JobError(ProviderError):
    """A fine-tuning job cannot be completed."""


class InvalidTrainingData(JobError, ValueError):
    """The provider refuses the training data."""


class TrainingFailed(JobError):
    """The job started and failed."""


class StorageFailed(TrainingFailed, OSError):
    """The trained weights cannot be written: disk full, quota or permission. The training itself
    succeeded."""


class AmbiguousSubmission(ProviderError):
    """A job may or may not have been created; a second submit could pay twice, so ask `find`.

    `settles_in_s`: after so many seconds `find` sees every job that was created, so one that it
    does not see can be submitted again. None if no such time is known.
    """

    def __init__(self, message: str, *, settles_in_s: float | None = None) -> None:
        super().__init__(message)
        self.settles_in_s = settles_in_s


class RunError(ProviderError):
    """The run cannot continue until the user changes something."""


class AuthenticationFailed(RunError):
    """The key is missing or refused."""


class QuotaExhausted(RunError):
    """The account has no credit left."""


class BudgetReached(RunError):
    """The next call could exceed the user's budget, so it was not sent."""


class Halted(RunError):
    """The run is being stopped; this call was not sent."""


class Unsupported(RunError):
    """The provider lacks a capability that the run needs."""


class ModelNotFound(RunError, FileNotFoundError):
    """No model at this address."""


class ModelDamaged(RunError):
    """The files of a tuned model are missing or changed since they were trained."""


class AdapterNotApplied(RunError):
    """A server answers as another model than the one that it was asked for."""


class InvalidSettings(RunError, ValueError):
    """A provider setting is unknown or out of range."""


class OutOfMemory(RunError, MemoryError):
    """Even the smallest piece of work does not fit into memory."""

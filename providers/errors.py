"""The error tree of the provider layer.

    ProviderError
    ├── RetryableError        the same call may succeed later; retried in one place only
    │   ├── RateLimited
    │   ├── Overloaded
    │   ├── TimedOut          (also a TimeoutError)
    │   └── ConnectionLost    (also a ConnectionError)
    │       └── Unreachable   no connection could be made at all
    ├── RequestError          fatal for this one call, the run goes on
    │   ├── BadRequest        (also a ValueError)
    │   ├── ContextOverflow   (also a ValueError)
    │   ├── ContentFiltered
    │   ├── UnusableAnswer    the answer came and holds no text in a form that is known
    │   └── RequestFailed     failed again and again, while other requests are answered
    ├── JobError              fatal for this one fine-tuning job
    │   ├── InvalidTrainingData (also a ValueError)
    │   └── TrainingFailed
    │       └── StorageFailed (also an OSError)
    ├── AmbiguousSubmission   a submission whose outcome is unknown: look before sending it again
    └── RunError              fatal for the run; it stops cleanly and can be resumed
        ├── AuthenticationFailed
        ├── QuotaExhausted
        ├── BudgetReached     the user's own cap, `budget_usd`
        ├── Halted            the user stops the run
        ├── Unsupported       the provider cannot do this at all
        ├── ModelNotFound     (also a FileNotFoundError)
        ├── ModelDamaged      a tuned model's files are not those that were trained
        ├── InvalidSettings   (also a ValueError)
        └── OutOfMemory       (also a MemoryError)

Every message names the offending value and the remedy, and never a secret.
"""

from __future__ import annotations


class ProviderError(Exception):
    """Base of all errors a provider raises."""


class RetryableError(ProviderError):
    """The call failed for a passing reason. `retry_after_s` is the server's hint, where given.

    `given_up` tells what was tried where the call was made again until patience ended and may be at
    fault itself; it is None where it was stopped because of another one.
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
    """The connection could not be made or broke."""


class Unreachable(ConnectionLost):
    """No connection could be made, so it cannot be the request's fault."""


class RequestError(ProviderError):
    """This request can never succeed; others can."""


class BadRequest(RequestError, ValueError):
    """The provider refuses the request as malformed."""


class ContextOverflow(RequestError, ValueError):
    """Prompt and answer do not fit into the model's context."""


class ContentFiltered(RequestError):
    """The provider refuses to answer this content."""


class UnusableAnswer(RequestError):
    """The server answered in a form that is not known; asking again would bring the same."""


class RequestFailed(RequestError):
    """This request fails whenever it is sent, although the server answers others."""


class JobError(ProviderError):
    """A fine-tuning job cannot be completed."""


class InvalidTrainingData(JobError, ValueError):
    """The provider refuses the training data."""


class TrainingFailed(JobError):
    """The job started and failed."""


class StorageFailed(TrainingFailed, OSError):
    """What was trained cannot be written: no room, no quota, no permission. Not the training's
    fault."""


class AmbiguousSubmission(ProviderError):
    """A job may or may not have been created; `find` tells, a second submit could pay twice.

    `settles_in_s`: a job that was created is found within that many seconds, so one that is not
    found by then can be submitted again. None where nobody can say so.
    """

    def __init__(self, message: str, *, settles_in_s: float | None = None) -> None:
        super().__init__(message)
        self.settles_in_s = settles_in_s


class RunError(ProviderError):
    """Nothing sensible can go on until the user changes something."""


class AuthenticationFailed(RunError):
    """The key is missing or refused."""


class QuotaExhausted(RunError):
    """The account has no credit left."""


class BudgetReached(RunError):
    """Going on could cost more than the user allows; nothing was sent that could."""


class Halted(RunError):
    """The run is being stopped; nothing was sent any more."""


class Unsupported(RunError):
    """The provider lacks a capability the run relies on."""


class ModelNotFound(RunError, FileNotFoundError):
    """No model at this address."""


class ModelDamaged(RunError):
    """The files of a tuned model are missing or changed since they were trained."""


class InvalidSettings(RunError, ValueError):
    """A provider setting is unknown or out of range."""


class OutOfMemory(RunError, MemoryError):
    """Even the smallest piece of work does not fit into memory."""

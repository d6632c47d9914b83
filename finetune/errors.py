"""The error tree of fine-tuning.

FinetuneError
├── DatasetChanged    a stored dataset would now be different
├── DatasetDamaged    a stored dataset refers to turns that are missing or changed
├── SubmissionUnknown it is unknown whether the provider has created a job
├── SelectionRefused  the user's own selection of training rows cannot be used (also a ValueError)
├── JobChanged        a stored job was described differently
└── TuningFailed      one or more jobs failed; all others have ended
    └── TuningStopped credit, disk or memory ran out; the training itself did not fail
"""

from __future__ import annotations


class FinetuneError(Exception):
    """Base of all errors of this package."""


class DatasetChanged(FinetuneError):
    """A stored dataset is immutable, and deriving it again gave other content."""


class DatasetDamaged(FinetuneError):
    """A dataset's rows no longer lead to the turns they were made from."""


class SubmissionUnknown(FinetuneError):
    """The provider cannot say whether a job exists; sending it again could pay twice."""


class SelectionRefused(FinetuneError, ValueError):
    """Names what is wrong with the user's SQL, or the row that must not be trained on."""


class JobChanged(FinetuneError):
    """A job of this name is stored with other settings, data or start."""


class TuningFailed(FinetuneError):
    """Names each failed job's agent and role, the provider's reason and the remedy."""


# A subclass, so that callers who only ask whether tuning failed need not know it.
class TuningStopped(TuningFailed):
    """Names what has run out; `on_failure` "keep" does not keep the old model for this."""

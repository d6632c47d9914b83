"""The error tree of fine-tuning.

FinetuneError
├── DatasetChanged    a stored dataset would come out differently now
├── DatasetDamaged    a stored dataset refers to turns that are missing or changed
├── SubmissionUnknown a submission whose outcome nobody can tell; never sent again blindly
├── SelectionRefused  the user's own selection of training rows cannot be used (also a ValueError)
├── JobChanged        a stored job was described differently
└── TuningFailed      one or more jobs failed, all others were seen through
    └── TuningStopped what a job needs has run out (credit, disk, memory); its training did not fail
"""

from __future__ import annotations


class FinetuneError(Exception):
    """Base of all errors of this package."""


class DatasetChanged(FinetuneError):
    """A dataset is immutable once stored, and building it again gave other content."""


class DatasetDamaged(FinetuneError):
    """A dataset's rows no longer lead to the turns they were made from."""


class SubmissionUnknown(FinetuneError):
    """The provider cannot say whether a job exists; sending it again could pay twice."""


class SelectionRefused(FinetuneError, ValueError):
    """Says what is wrong with the user's SQL, or which row of it must not be trained on."""


class JobChanged(FinetuneError):
    """A job of this name is stored with other settings, data or start."""


class TuningFailed(FinetuneError):
    """Names each failed job's agent and role, the provider's reason and the remedy."""


class TuningStopped(TuningFailed):
    """Names what has run out; never a reason to go on with the old model."""

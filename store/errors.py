"""The error tree of the store.

StoreError
├── StoreMissing      no file at this path (also a FileNotFoundError)
├── StoreBroken       not a database, or damaged
├── StoreNewer        written by a newer version of this software
├── StoreOutdated     written by an older version and opened read-only
├── StoreLocked       another process, or another Store of this one, is writing to it
│   └── LiveUnavailable   a run in progress cannot be read: the system has no Unix sockets
├── StoreClosed       used after `close`
├── WriteFailed       the disk refused; nothing of the append was stored (also an OSError)
├── DuplicateRecord   a turn, vote or verdict that is stored already
├── InvalidRecord     a value the schema does not allow (also a ValueError)
├── PackageMissing    the package for a form of answer is not installed (also an ImportError)
└── InvalidQuery      a query that is not a single valid SELECT (also a ValueError)
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors the store raises."""


class StoreMissing(StoreError, FileNotFoundError):
    """There is no database at this path."""


class StoreBroken(StoreError):
    """The file is not a database of this project, or it is damaged."""


class StoreNewer(StoreError):
    """The file has a schema version this software does not know."""


class StoreOutdated(StoreError):
    """The file has an older schema version and cannot be migrated because it is read-only."""


class StoreLocked(StoreError):
    """Another process, or another store of this one, has the file open for writing."""


class LiveUnavailable(StoreLocked):
    """A run cannot be read while it is running."""


class StoreClosed(StoreError):
    """The store was closed."""


class WriteFailed(StoreError, OSError):
    """The file system refused a write. What was committed before is intact."""


class DuplicateRecord(StoreError):
    """A turn, vote or verdict that is stored already; nothing of the append was stored."""


class InvalidRecord(StoreError, ValueError):
    """A value the schema does not allow; nothing of the append was stored."""


class PackageMissing(StoreError, ImportError):
    """An answer was asked for in a form whose package is not installed."""


class InvalidQuery(StoreError, ValueError):
    """Not a single, valid, read-only query."""

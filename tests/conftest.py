"""For all tests: torch keeps to one thread, since the test workers share the cores."""

import os
import signal
import socketserver
import sys
import tempfile

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results of self-checks are kept here, not in the developer's own cache.
_cache = tempfile.TemporaryDirectory(prefix="society-cache-")
os.environ["XDG_CACHE_HOME"] = _cache.name

# Started with `&` or nohup, the suite has signals ignored, and so would every process it starts.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

_handle_error = socketserver.BaseServer.handle_error


def _ignore_lost_clients(server: socketserver.BaseServer, request: object, client: object) -> None:
    """A client of an earlier test that goes away must not print into the output of a later one."""
    if not isinstance(sys.exc_info()[1], ConnectionError):
        _handle_error(server, request, client)


socketserver.BaseServer.handle_error = _ignore_lost_clients

LONG = (
    "test_readme.py",
    "test_stubborn_vendor.py",
    "test_cancel.py",
    "test_sweep.py",
    "test_api_run.py",
    "test_costs.py",
    "test_provenance.py",
    "test_export.py",
    "test_pages.py",
    "test_stopping.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))

"""For all tests: torch keeps to one thread, since the test workers share the cores."""

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Matplotlib takes seconds to list the fonts of the machine, and keeps its list here.
_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_caches / "matplotlib"))
# Most tests write databases, and every commit waits for the disk; in memory none waits. A container
# may have little room there.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 6 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
# Results of self-checks are kept here, not in the developer's own cache. Test workers take over the
# folder of the process that started them, so that one model is checked once and not by each.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="society-cache-")
    os.environ["XDG_CACHE_HOME"] = _cache.name

# A busy machine draws slowly, which says nothing about what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Started with `&` or nohup, the suite has signals ignored, and so would every process it starts.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

# Files that run in one worker, one after the other: importing torch and PEFT takes a worker five
# seconds, and so does drawing the report that they share.
TOGETHER = {
    "models": re.compile(
        "tests/providers/test_(local_|train|checkpoint|loading|lora|self_check|embedded_model"
        "|tinker_wire)"
        "|tests/evals/diversity/"
    ),
    "runs of models": re.compile(
        "tests/society/test_(readme|diversity|retrain|own_selection|failed_fits|resumed_settings"
        r"|sweep|served_run)\.py"
    ),
    "report": re.compile("tests/evals/report/"),
}
# What takes longest comes first, so that no worker is left alone with it at the end.
LONG = (
    "tests/society/test_kill.py",
    "tests/society/test_extras.py",
    "tests/providers/test_training_workers.py",
    "tests/test_guides.py",
    "tests/society/test_gemini_run.py",
    "tests/providers/test_openai_contract.py",
    "tests/society/test_tinker_kills.py",
    "tests/providers/test_cluster_training.py",
    "tests/providers/test_cluster_serving.py",
    "tests/society/view/test_accessibility.py",
    *TOGETHER,
    "tests/evals/test_judge.py",
    "tests/society/test_stubborn_vendor.py",
    "tests/society/test_failed_requests.py",
    "tests/society/test_every_attempt_is_paid.py",
    "tests/society/test_quirks.py",
    "tests/society/test_doctor_servers.py",
    "tests/society/test_import.py",
    "tests/society/test_hostile_run.py",
    "tests/society/test_cli.py",
    "tests/society/test_cancel.py",
    "tests/society/test_api_run.py",
    "tests/evals/tasks/test_hub_source.py",
    "tests/society/test_stopping.py",
    "tests/society/test_batched_evaluation.py",
    "tests/society/test_packaged.py",
    "tests/society/test_import_doc.py",
    "tests/society/test_provenance.py",
    "tests/society/test_replayed_run.py",
    "tests/society/test_sql.py",
    "tests/society/view/test_browser.py",
    "tests/society/view/test_pages.py",
)


def find_group(nodeid: str) -> str:
    """The group of a test's file, or the file."""
    file = nodeid.split("::")[0]
    return next((name for name, files in TOGETHER.items() if files.match(file)), file)


class GroupScheduling(LoadFileScheduling):
    """Gives a worker the files of a group together, and every other file by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return find_group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    return GroupScheduling(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {group: rank for rank, group in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(find_group(item.nodeid), len(ranks)))

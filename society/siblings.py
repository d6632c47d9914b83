"""Loads the packages beside this one, and no other package called `store` or `evals`.

A notebook or `python -c` looks first in the current folder, which may well have a folder or file
of such a name. The siblings are therefore loaded by their place, before anything imports them.
"""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

NAMES = ("providers", "store", "finetune", "evals")
_HOME = Path(__file__).resolve().parent.parent


def load_siblings() -> None:
    """Make every sibling importable as it was installed with this package.

    Raises ImportError where that cannot be: one is missing, or another package of its name is in
    use in this process. Warns of packages that are hidden by it from now on.
    """
    for name in NAMES:
        loaded = sys.modules.get(name)
        if loaded is not None and _is_used(loaded):
            if not _is_ours(_places(loaded.__spec__, loaded), name):
                raise ImportError(_in_use(name, loaded))
            continue
        found = None if _was_started_with_m() else PathFinder.find_spec(name)
        _load(name)
        if found is not None and found.origin is not None and not _is_ours([found.origin], name):
            warnings.warn(
                f"society has loaded its own package {name!r}; {_name_place(found.origin)} cannot "
                "be imported under that name in this process, rename it if you need both",
                stacklevel=3,
            )


def _load(name: str) -> None:
    place = _HOME / name / "__init__.py"
    if not place.is_file():
        raise ImportError(
            f"package {name!r} is missing in {_HOME}: install multiagent-finetuning again"
        )
    # By its place, not by name: sys.path may lead to another package of this name.
    spec = spec_from_file_location(name, place, submodule_search_locations=[str(place.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Before it runs, so that its own modules find it; taken back if it fails.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_used(module: ModuleType) -> bool:
    """Whether a loaded module has any content; a plain folder of that name has none."""
    if getattr(module, "__file__", None) is not None or module.__spec__ is None:
        return True
    return any(name.startswith(f"{module.__name__}.") for name in sys.modules)


def _is_ours(places: list[str], name: str) -> bool:
    return any(Path(place).resolve().is_relative_to(_HOME / name) for place in places)


def _places(spec: ModuleSpec | None, module: ModuleType) -> list[str]:
    inside = spec.submodule_search_locations if spec else getattr(module, "__path__", None)
    files = (getattr(module, "__file__", None), *(inside or ()))
    return [place for place in files if place]


def _in_use(name: str, module: ModuleType) -> str:
    places = _places(module.__spec__, module)
    where = _name_place(places[0]) if places else "another place"
    return (
        f"package {name!r} comes from {where}, which this process has imported already, and "
        f"society needs its own from {_HOME / name}: Python loads only one package of that name. "
        f"Rename {where}, or import society first and leave the other alone, or use society in a "
        "process or an environment of its own"
    )


def _name_place(place: str) -> str:
    path = Path(place)
    return str(path.parent if path.name == "__init__.py" else path)


def _was_started_with_m() -> bool:
    # `python -m society` begins with this import, and its user imports nothing.
    return sys.argv[:1] == ["-m"]

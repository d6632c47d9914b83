"""Every key of the experiment file: values, default, and what it does, read from the models.

`society config` prints them, docs/config.md lists them, and an unknown key is answered with the
nearest of them. A key's description stands below its field in the section's class.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

from society.config.keys import Key, walk_table
from society.config.owned_keys import list_provider_keys, list_task_keys, merge_owners
from society.config.schema import Config

_SEVERAL_RUNS = {
    "seeds": {
        "type": "array",
        "items": {"type": "integer"},
        "description": "Make one run for each seed, in place of `seed` "
        "([experiments.md](experiments.md#seeds)).",
    },
    "sweep": {
        "type": "object",
        "description": "Make one run for each combination of values: `[sweep]` with "
        "`datasets.w = [0.2, 0.5]` ([experiments.md](experiments.md#sweeps)).",
    },
}
"""Keys of the file that `society.config.load` takes out before it is one run's config."""


@cache
def list_keys() -> tuple[Key, ...]:
    """All keys but a provider's and a task's own, those at the top of the file first.

    >>> next(key.default for key in list_keys() if key.name == "society.agents")
    '3'
    """
    schema = build_json_schema()
    # Sorting keeps the order of the keys within both halves.
    return tuple(sorted(walk_table(schema, schema, ""), key=lambda key: key.section != ""))


def build_json_schema() -> dict[str, Any]:
    """The JSON Schema of an experiment file, by which editors complete and check it."""
    schema = Config.model_json_schema()
    schema["properties"] |= _SEVERAL_RUNS
    return schema


@cache
def list_described() -> tuple[Key, ...]:
    """All keys but those that repeat another table's keys, for one agent or arm.

    The options of tasks and the keys of every installed provider come last; equal ones of several
    owners are one key.
    """
    described = (key for key in list_keys() if key.description)
    return (*described, *merge_owners(list_task_keys()), *merge_owners(list_provider_keys()))


def find_keys(name: str) -> list[Key]:
    """The key of this name, and all keys of the section, the provider's scheme or the task.

    >>> [key.name for key in find_keys("leakage")]
    ['leakage.threshold']
    >>> find_keys("local")[0].name
    'provider.device'
    """
    plain = _strip_marks(name.strip().strip("[]").removesuffix(":"))
    keys = list_described()
    if owned := [key for key in keys if plain in (o.removesuffix(":") for o in key.owners)]:
        return owned
    return [key for key in keys if f"{_strip_marks(key.name)}.".startswith(f"{plain}.")]


def suggest_key(name: str) -> str | None:
    """The key that was probably meant by an unknown one.

    >>> suggest_key("society.agnets"), suggest_key("agents"), suggest_key("nonsense")
    ('society.agents', 'society.agents', None)
    """
    names = {_strip_marks(key.name): key.name for key in (*list_keys(), *list_described())}
    section, _, last = name.rpartition(".")
    # Arms and agents repeat keys of sections, and servers' names for them, so these come last.
    ordered = sorted(names, key=lambda n: n.startswith(("arms.", "sampling.agents.", "provider.")))
    here = {n.rpartition(".")[2]: n for n in ordered if n.rpartition(".")[0] == section}
    if not section:
        tables = {n.rpartition(".")[0] for n in ordered} - here.keys() - {""}
        names |= {table: f"[{table}]" for table in tables}
        here |= {table: table for table in tables}
    all_last: dict[str, str] = {}
    for full in ordered:
        all_last.setdefault(full.rpartition(".")[2], full)
    for known, likeness in ((here, 0.7), (all_last, 0.8)):
        if close := difflib.get_close_matches(last, known, 1, likeness):
            return names[known[close[0]]]
    return None


def explain_keys(keys: Iterable[Key]) -> str:
    """Keys in words, for a terminal.

    >>> print(explain_keys(find_keys("leakage")))
    leakage.threshold = 0.95   (number > 0 ≤ 1)
        How similar two questions must be to count as the same; 1 finds equal ones only.
    """
    return "\n".join(_explain_key(key) for key in keys)


def _explain_key(key: Key) -> str:
    values = key.values.replace("`", "")
    value = {"required": "…", "": "…"}.get(key.default, key.default)
    note = {"required": "required; ", "": "unset; "}.get(key.default, "")
    text = textwrap.fill(
        _LINK.sub(r"\1", key.description),
        100,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    owners = f"; {', '.join(key.owners)}" if key.owners else ""
    return f"{key.name} = {value}   ({note}{values}{owners})\n{text}"


_LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


def write_reference() -> str:
    """The page docs/config.md."""
    lines = [
        "# Every key of the experiment file",
        "",
        "`society config KEY` prints a key or a section, `society config --schema` a JSON Schema "
        "for editors. Only",
        "`model` and `task.name` are required. Paths are relative to the file, those of `--set` to "
        "the working directory.",
        "This page is made from the program by `society config --markdown`.",
    ]
    described = (key for key in list_keys() if key.description)
    for section, keys in groupby(described, lambda key: key.section):
        title = f"`[{section}]`" if section else "At the top of the file"
        if section.endswith("[]"):
            title = f"`[[{section.removesuffix('[]')}]]`"
        lines += ["", f"## {title}", "", *_write_table(keys, section)]
        if section == "task":
            lines += _write_task_tables()
    return "\n".join([*lines, *_write_provider_tables()]) + "\n"


def _write_task_tables() -> Iterator[str]:
    yield from (
        "",
        "### Options of the tasks",
        "",
        "In the table `[task]`; [tasks.md](tasks.md) tells what they are for. `society config "
        "TASK` prints those of one task.",
    )
    yield from _write_owned_tables(list_task_keys(), "task", "####")


def _write_provider_tables() -> Iterator[str]:
    yield from (
        "",
        "## `[provider]`",
        "",
        'What the provider of `model` is told; `[providers."ADDRESS"]` and `settings` in '
        "`[serving]` have the same keys.",
        "`society config SCHEME` prints those of one scheme.",
    )
    yield from _write_owned_tables(list_provider_keys(built_in=True), "provider", "###")


def _write_owned_tables(keys: tuple[Key, ...], section: str, level: str) -> Iterator[str]:
    """A table for each owner, without the rows that another one has already."""
    own: dict[str, list[Key]] = {key.owners[0]: [] for key in keys}
    shared: dict[str, dict[str, list[str]]] = {owner: {} for owner in own}
    for key in merge_owners(keys):
        first, *others = key.owners
        own[first].append(key)
        for other in others:
            shared[other].setdefault(first, []).append(key.name.removeprefix(f"{section}."))
    for owner, rows in own.items():
        yield from ("", f"{level} `[{section}]` of `{owner}`")
        if rows:
            yield from ("", *_write_table(rows, section))
        for first, names in shared[owner].items():
            yield from ("", f"As for `{first}`: {', '.join(f'`{name}`' for name in names)}.")


def _write_table(keys: Iterable[Key], section: str) -> Iterator[str]:
    yield "| key | values | default | what it does |"
    yield "|---|---|---|---|"
    for key in keys:
        default = f"`{key.default}`" if key.default not in ("", "required") else key.default
        name = key.name.removeprefix(f"{section}.")
        cells = (f"`{name}`", key.values, default, key.description)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _strip_marks(name: str) -> str:
    return name.replace("[]", "")

"""One debate of a run's newest society over a question of the user's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TextIO

from rich.rule import Rule
from rich.text import Text

from evals import stored_run, tasks
from evals.tasks.base import TaskQuestion
from society.config.load import ConfigError
from society.config.schema import Config
from society.costs import budget
from society.method.arms import main_arm
from society.method.connections import Connections
from society.method.debate import Debate
from society.method.debating import build_debate_rules
from society.method.finetuning import load_society
from society.method.voting import Tally
from society.runs.folder import RunFolder
from society.terminal.output import Screen, one_line, plain
from store.errors import StoreLocked
from store.ledger import Store
from store.records import Row, StageKey, Turn

_NEWEST = "select coalesce(max(iteration), 0) from votes where split = 'eval' and arm = ?"

# Somebody waits at a terminal: a server that is down is told of soon. All models of the newest
# society have answered before, so one that is missing now is not on its way.
_GIVE_UP_AFTER_S = 30.0


def open_store(folder: RunFolder) -> Store:
    """The run's store: for reading, or for writing where asking costs something that has to count.

    Raises `NothingStored` for a database without a run, and `StoreLocked` where a run that pays is
    going on: it counts alone.
    """
    store = Store.open(folder.database, read_only=True)
    try:
        config = Config.from_json(stored_run.load_run(store).config)
        free = budget.is_free(config)
        if free:
            return store
    except BaseException:
        store.close()
        raise
    live = store.running
    store.close()
    if not live:
        return Store.open(folder.database, create=False)
    raise StoreLocked(
        f"run {folder.name!r} is going on and counts what it pays, so a question that costs "
        "something has to wait for its end"
    )


def show(folder: RunFolder, store: Store, text: str, stream: TextIO) -> None:
    """Debate `text` with the newest society of a run's main arm; print every turn as it comes,
    then the vote.

    Raises `ConfigError` for an empty question, `NothingStored` for a database without a run, and
    the provider's errors.
    """
    if not text.strip():
        raise ConfigError(f"the question {text!r} is empty; ask something")
    config = Config.from_json(stored_run.load_run(store).config)
    console = Screen(stream)
    newest = newest_iteration(store, config)
    who = f"the society of iteration {newest}" if newest else "the untuned society"
    title = f"{who} of run {one_line(folder.name)} debates: {plain(text)}"
    console.print(Text(title, style="bold"))
    tally = asyncio.run(ask(folder, config, store, text, partial(_print, console)))
    console.print(Rule(style="dim"))
    if tally.answer is None:
        console.print("no agent has stated a final answer")
        return
    tie = ", a tie" if tally.tie else ""
    console.print(
        Text.assemble(
            ("consensus ", "bold"),
            (plain(tally.answer), "bold green"),
            f"  ({tally.votes} of {config.society.agents} agents{tie})",
        )
    )


def _print(console: Screen, turn: Turn) -> None:
    what = "summary for agent" if turn.kind == "summary" else "agent"
    title = f"round {turn.round} · {what} {turn.agent} · {turn.model_id}"
    console.print(Rule(Text(one_line(title)), align="left", style="dim"))
    console.print(Text(plain(turn.response), style="dim" if turn.kind == "summary" else ""))
    if turn.error is not None:
        console.print(Text(f"(no response: {plain(turn.error)})", style="red"))


async def ask(
    folder: RunFolder,
    config: Config,
    store: Store,
    text: str,
    show: Callable[[Turn], None],
) -> Tally:
    """Debate `text`, handing every turn to `show` as it comes; returns the last round's vote.

    Of what is said nothing is stored, and of what it costs all, where `store` can be written to.
    Raises the provider's errors.
    """
    newest = newest_iteration(store, config)
    connections = Connections.open(config, folder.models).with_deadline(_GIVE_UP_AFTER_S)
    if not store.read_only:
        connections = budget.metered(connections, config, store, in_passing=True)
    try:
        arm = main_arm(config)
        society = load_society(store, connections.start_society(arm.agents), newest, arm.name)
        await connections.load_adapters(society.tuned_models)
        debate = Debate(
            society,
            tasks.load(config.task.name, config.task.options),
            connections,
            _Nowhere(),
            StageKey(newest, "eval", arm.name, "sampled"),
            build_debate_rules(config, arm, "sampled"),
            on_turn=show,
        )
        tallies = await debate.question(TaskQuestion("asked", text, gold=None))
    finally:
        await connections.close()
    return tallies[-1]


def newest_iteration(store: Store, config: Config) -> int:
    """The last iteration of the main arm whose tuning is complete: its society has been evaluated.
    0: untuned."""
    [(newest,)] = store.rows(_NEWEST, [main_arm(config).name])
    return int(newest)


class _Nowhere:
    async def append(self, *rows: Row) -> None:
        """A question that was asked in passing is no part of the run."""

"""One debate of a run's society about the user's own question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TextIO

from rich.rule import Rule
from rich.text import Text

from evals import choices, stored_run, tasks
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
from society.terminal.output import Screen, escape_invisible, one_line
from store.errors import StoreLocked
from store.ledger import Store
from store.records import StageKey, Turn
from store.tables import Record

# The user waits at a terminal, so a server that is down is reported soon. All models of the society
# have answered before, so a model that is missing now will not appear later.
_GIVE_UP_AFTER_S = 30.0
_RAISE_BUDGET = (
    "raise budget_usd in the experiment file, let `society run` read it again, and ask again"
)


def open_store(folder: RunFolder) -> Store:
    """The run's store, for reading; for writing if asking costs something that must be counted.

    Raises `NothingStored` for a database without a run, and `StoreLocked` for a running run that
    pays, since only the running process may count its costs.
    """
    store = Store.open(folder.database, read_only=True)
    try:
        config = Config.from_json(stored_run.load_run(store).config)
        # Free questions change nothing, so they may be asked of a running run, too.
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
        f"run {folder.name!r} is running and counts what it pays; ask a question that costs "
        "something when it has ended"
    )


def show_debate(
    folder: RunFolder, store: Store, text: str, stream: TextIO, iteration: int | None = None
) -> None:
    """Let a society of a run's main arm debate `text`; print each turn, then the vote.

    It is that of `iteration`, by default the arm's own (`choices.find_society`). Raises
    `ConfigError` for an empty question or an iteration without a society, `NothingStored` for a
    database without a run, and the provider's errors.
    """
    if not text.strip():
        raise ConfigError(f"the question {text!r} is empty; ask something")
    config = Config.from_json(stored_run.load_run(store).config)
    iteration = find_iteration(store, config, iteration)
    console = Screen(stream)
    who = choices.name_society(iteration)
    title = f"{who} of run {one_line(folder.name)} debates: {escape_invisible(text)}"
    console.print(Text(title, style="bold"))
    *_, tally = asyncio.run(
        debate_question(folder, config, store, text, iteration, partial(_print, console))
    )
    console.print(Rule(style="dim"))
    if tally.answer is None:
        console.print("no agent stated a final answer")
        return
    tie = ", a tie" if tally.tie else ""
    console.print(
        Text.assemble(
            ("consensus ", "bold"),
            (escape_invisible(tally.answer), "bold green"),
            f"  ({tally.votes} of {config.society.agents} agents{tie})",
        )
    )


def _print(console: Screen, turn: Turn) -> None:
    what = "summary for agent" if turn.kind == "summary" else "agent"
    title = f"round {turn.round} · {what} {turn.agent} · {turn.model_id}"
    console.print(Rule(Text(one_line(title)), align="left", style="dim"))
    console.print(
        Text(escape_invisible(turn.response), style="dim" if turn.kind == "summary" else "")
    )
    if turn.error is not None:
        console.print(Text(f"({escape_invisible(turn.error)})", style="red"))


async def debate_question(
    folder: RunFolder,
    config: Config,
    store: Store,
    text: str,
    iteration: int,
    show: Callable[[Turn], None],
) -> list[Tally]:
    """Let the society of `iteration` debate `text`, passing each turn to `show`; return the vote of
    every round.

    The turns are not stored. Their cost is, if `store` can be written to. Raises the provider's
    errors.
    """
    if config.serving is not None and config.serving.engine is not None:
        # One debate is over in this process before a server is up, and a running run has its own.
        config = config.model_copy(update={"serving": None})
    connections = Connections.open(config, folder.models).with_deadline(_GIVE_UP_AFTER_S)
    if not store.read_only:
        connections = budget.budget_connections(
            connections, config, store, in_passing=True, remedy=_RAISE_BUDGET
        )
    try:
        arm = main_arm(config)
        society = load_society(store, connections.start_society(arm.agents), iteration, arm.name)
        # Load all adapters first, so that no answer waits for one.
        await connections.load_adapters(society.tuned_models)
        debate = Debate(
            society,
            tasks.load_task(config.task.name, config.task.options),
            connections,
            _Unstored(),
            StageKey(iteration, "eval", arm.name, "sampled"),
            build_debate_rules(config, arm, "sampled"),
            on_turn=show,
        )
        return await debate.debate_question(TaskQuestion("asked", text, gold=None))
    finally:
        await connections.close()


def require_free_server(folder: RunFolder, config: Config, store: Store) -> None:
    """Raise `ConfigError` where a running run has the server that would have to answer."""
    if config.serving is not None and config.serving.engine is not None and store.running:
        raise ConfigError(
            f"run {folder.name!r} is running and has a server of its own; ask its society when it "
            "has ended"
        )


def find_iteration(store: Store, config: Config, asked: int | None = None) -> int:
    """The iteration whose society of the main arm answers; `asked` names another than its own.

    Raises `ConfigError` if no society of that iteration has been evaluated.
    """
    arm = main_arm(config).name
    if asked is None:
        return choices.find_society(store, arm)
    there = choices.list_evaluated(store, arm)
    if asked not in there:
        known = ", ".join(map(str, there)) or "none yet"
        raise ConfigError(
            f"--iteration {asked}: no such society of {arm} has been evaluated (there: {known})"
        )
    return asked


class _Unstored:
    async def append(self, *rows: Record) -> None:
        """Discard the rows: this question is not part of the run."""

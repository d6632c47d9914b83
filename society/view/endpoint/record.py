"""Served debates in a database of their own, which `society sql` and the viewer read as a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from society.config.load import ConfigError
from society.config.schema import Config
from society.method.arms import Arm
from society.runs import provenance
from society.runs.folder import RunFolder
from society.view.endpoint.body import ChatQuestion
from society.view.endpoint.forms import FULL, AnswerForm
from store.ledger import Store
from store.records import Model, Question, Run, utc_now
from store.tables import Record


class UnstoredDebates:
    """Keeps nothing; implements `society.view.endpoint.society.ServedRecord`."""

    async def open_question(self, name: str, question: ChatQuestion) -> None:
        return

    async def append(self, *rows: Record) -> None:
        return


@dataclass(slots=True)
class StoredDebates:
    """Keeps questions, turns and votes in `store`; implements `ServedRecord`."""

    store: Store
    task: str
    _asked: int = field(init=False)

    def __post_init__(self) -> None:
        [(self._asked,)] = self.store.rows("SELECT coalesce(max(position), 0) FROM questions")

    async def open_question(self, name: str, question: ChatQuestion) -> None:
        """The conversation before the question, and what else was asked for, are its `meta`."""
        said = {
            "messages": [asdict(message) for message in question.earlier],
            "max_tokens": question.max_tokens,
            "stop": question.stop,
            "seed": question.seed,
            **question.stated,
        }
        meta = json.dumps({key: value for key, value in said.items() if value})
        # The order of asking, over all starts.
        self._asked += 1
        await self.store.append(
            Question(name, self.task, "eval", question.text, position=self._asked, meta=meta)
        )

    async def append(self, *rows: Record) -> None:
        await self.store.append(*rows)


def open_record(
    folder: RunFolder, config: Config, arm: Arm, forms: Iterable[AnswerForm], models: list[Model]
) -> Store:
    """The database of served debates, made or opened again for the same experiment.

    Every served model is an arm there. Raises `ConfigError` for a run that is no such record, or
    one of another experiment, and the store's errors.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    store = Store.open(folder.database)
    try:
        # Before anything is written: a run that was named by mistake must stay as it is.
        _check_record(folder, store, config)
        beginning = provenance.describe_start(config)
        text = config.to_json()
        store.record_start(beginning)
        store.write(
            Run(
                name=folder.name,
                config=text,
                config_sha256=hashlib.sha256(text.encode()).hexdigest(),
                seed=config.seed,
                versions=beginning.versions,
                # There is nothing to resume, however the server ends.
                finished_at=utc_now(),
            ),
            # The job and the dataset of a model are in the run that made it.
            *(replace(m, parent_id=None, dataset_id=None, job_id=None) for m in models),
            *(
                replace(form.to_arm(arm), position=position).record()
                for position, form in enumerate(forms)
            ),
        )
    except BaseException:
        store.close()
        raise
    return store


def _check_record(folder: RunFolder, store: Store, config: Config) -> None:
    stored = store.run()
    if stored is None:
        return
    arms = [str(name) for (name,) in store.rows("SELECT arm FROM arms")]
    if not arms or any(name.partition(":")[0] != FULL for name in arms):
        raise ConfigError(
            f"--store {folder.name}: {folder.path} is a run of its own, and served debates would "
            "change it; choose another name"
        )
    if stored.config != config.to_json():
        raise ConfigError(
            f"--store {folder.name}: {folder.path} has the debates of another experiment; choose "
            "another name"
        )

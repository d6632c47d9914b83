"""Datasets as files: a table with lineage, or JSONL in the shapes that trainers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from store.errors import InvalidQuery, StoreBroken
from store.export import MESSAGES, SHAPED, Format, copy_query
from store.ledger import Store
from store.output_files import replace_whole
from store.records import Dataset

ChatFormat = Literal["chat", "sharegpt"]
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
# A generator's pair is about the prompt of round 1, a critic's about that of the last round: one of
# its two answers was given to it.
_PROMPT = """if(w.turn_id IS NULL OR (t.round <= w.round) = (d.role = 'generator'),
    t.messages, w.messages)"""
# The whole conversation of each example as a list, with the weight that its loss has. The doubled
# braces are those of DuckDB's structs: the text is formatted twice, here and with `shaped`.
_EXAMPLES = f"""
WITH trained_on AS (
    SELECT d.dataset_id, d.iteration, d.arm, d.agent, d.role, e.position, e.turn_id, e.question_id,
        e.weight, e.rejected_turn_id, w.response AS rejected, e.wanted,
        list_transform(({_PROMPT}){MESSAGES.removeprefix("messages")}, lambda m: {{{{
            'role': m.role,
            'content': m.content,
            'weight': if(m.role = 'assistant', if(d.loss_on = 'all', 1, 0), NULL)
        }}}}) || [{{{{'role': 'assistant', 'content': t.response, 'weight': 1}}}}] AS messages
    FROM (FROM dataset_examples WHERE dataset_id = $dataset_id) AS e
    JOIN datasets AS d USING (dataset_id)
    JOIN turns AS t USING (turn_id)
    LEFT JOIN turns AS w ON w.turn_id = e.rejected_turn_id
)

SELECT * {{shaped}} FROM trained_on ORDER BY position
"""
_CONVERSATIONS = f"""
SELECT {_PROMPT}, t.response, e.weight, w.response, e.wanted
FROM (FROM dataset_examples WHERE dataset_id = ?) AS e
JOIN datasets AS d USING (dataset_id)
JOIN turns AS t USING (turn_id)
LEFT JOIN turns AS w ON w.turn_id = e.rejected_turn_id
ORDER BY e.position
"""
_STORED_TURNS = """
SELECT count(*)
FROM (FROM dataset_examples WHERE dataset_id = ?)
SEMI JOIN turns USING (turn_id)
WHERE rejected_turn_id IS NULL OR rejected_turn_id IN (SELECT turn_id FROM turns)
"""


class LineFormatter(Protocol):
    """Makes one line, without its end, of a prompt as stored (JSON) and the response to it."""

    def __call__(self, messages: str, response: str, *, loss_on_all: bool) -> str: ...


def format_chat(messages: str, response: str, *, loss_on_all: bool) -> str:
    """{"messages": [{"role", "content"}, ...]}: the shape of chat fine-tuning APIs.

    Assistant messages carry "weight" 1 where the loss falls on them, otherwise 0.
    """
    turns: list[dict[str, object]] = []
    for message in json.loads(messages):
        turn: dict[str, object] = {"role": message["role"], "content": message["content"]}
        if message["role"] == "assistant":
            turn["weight"] = int(loss_on_all)
        turns.append(turn)
    turns.append({"role": "assistant", "content": response, "weight": 1})
    return json.dumps({"messages": turns}, ensure_ascii=False)


def format_sharegpt(messages: str, response: str, *, loss_on_all: bool) -> str:
    """{"conversations": [{"from", "value"}, ...]} with "system", "human" and "gpt".

    The shape has no weights. Where the loss falls on the final answer only, tell the trainer to
    train on the last turn only.
    """
    turns = [
        {"from": _SPEAKERS.get(message["role"], message["role"]), "value": message["content"]}
        for message in json.loads(messages)
    ]
    turns.append({"from": "gpt", "value": response})
    return json.dumps({"conversations": turns}, ensure_ascii=False)


def format_preference(
    shape: ChatFormat, messages: str, response: str, rejected: str | None, wanted: bool | None
) -> str:
    """A pair, or an answer and whether it is wanted, as TRL ("chat") and LLaMA-Factory read it."""
    line: dict[str, object]
    if shape == "chat":
        answer = [{"role": "assistant", "content": response}]
        line = {"prompt": json.loads(messages)}
        if rejected is None:
            line |= {"completion": answer, "label": wanted}
        else:
            worse = [{"role": "assistant", "content": rejected}]
            line |= {"chosen": answer, "rejected": worse}
        return json.dumps(line, ensure_ascii=False)
    *before, last = json.loads(format_sharegpt(messages, response, loss_on_all=False))[
        "conversations"
    ]
    if rejected is None:
        line = {"conversations": [*before, last], "kto_tag": wanted}
    else:
        line = {"conversations": before, "chosen": last, "rejected": {**last, "value": rejected}}
    return json.dumps(line, ensure_ascii=False)


CHAT_FORMATS: Mapping[ChatFormat, LineFormatter] = {
    "chat": format_chat,
    "sharegpt": format_sharegpt,
}


def export_examples(store: Store, dataset_id: str, path: str | Path, format: Format) -> int:
    """Write a dataset's rows, each with the turn behind it; like `export_relation`.

    `messages` is the whole conversation, the response trained on last: a list of role, content and
    weight. The weight is 1 where the loss falls, 0 on other assistant messages, NULL on the rest.
    The row's own `weight` multiplies all of it.
    """
    _find_complete(store, dataset_id)
    query = _EXAMPLES.format(shaped=SHAPED.get(("examples", format), ""))
    return copy_query(store, query, {"dataset_id": dataset_id}, Path(path), format)


def export_dataset(
    store: Store, dataset_id: str, path: str | Path, shape: ChatFormat = "chat"
) -> int:
    """Write a dataset as JSONL that trainers read, replacing the file; returns the rows.

    A row whose weight is not 1 has it as a key "weight" beside its messages.

        export_dataset(store, "multiagent-a1-critic-it2", "critic.jsonl", "sharegpt")

    Raises `InvalidQuery` for an unknown dataset, `StoreBroken` where turns of it are missing.
    """
    loss_on_all = _find_complete(store, dataset_id).loss_on == "all"
    format_line, count = CHAT_FORMATS[shape], 0
    with replace_whole(Path(path)) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for prompt, response, weight, rejected, wanted in store.stream(
            _CONVERSATIONS, [dataset_id]
        ):
            if rejected is None and wanted is None:
                line = format_line(prompt, response, loss_on_all=loss_on_all)
            else:
                line = format_preference(shape, prompt, response, rejected, wanted)
            if weight != 1:
                line = f'{line[:-1]}, "weight": {weight}}}'
            file.write(line + "\n")
            count += 1
    return count


def _find_complete(store: Store, dataset_id: str) -> Dataset:
    """The dataset, all of whose turns are stored."""
    dataset = store.dataset(dataset_id)
    if dataset is None:
        raise InvalidQuery(f"no dataset {dataset_id!r}")
    # A file with fewer rows than the dataset has would train another model unnoticed.
    [(found,)] = store.rows(_STORED_TURNS, [dataset_id])
    if found != dataset.examples:
        raise StoreBroken(
            f"dataset {dataset_id} has {dataset.examples} rows and {found} of their turns are "
            f"stored in {store.path}; restore the file from a copy"
        )
    return dataset

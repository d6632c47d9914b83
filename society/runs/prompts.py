"""The text that a model of this machine read: what its chat template makes of a conversation.

A run stores the template at its first start (the table `chat_templates`) and is not continued with
another: its models would be trained on prompts that were never sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from providers.base import Provider
from providers.local.conversation import render_prompt
from providers.local.template_checks import TemplateText
from providers.types import Message
from society.config.load import ConfigError, diff_lines
from store.ledger import Store
from store.run_starts import ChatTemplate

_TURN = """
SELECT messages::VARCHAR, coalesce(m.provider, t.model_id)
FROM turns AS t LEFT JOIN models AS m USING (model_id)
WHERE turn_id = ?
"""
_TEMPLATE = """
SELECT provider, sha256, template, variables::VARCHAR FROM chat_templates WHERE provider = ?
"""


async def keep_templates(store: Store, providers: Mapping[str, Provider]) -> None:
    """Store how prompts are written for every model of this machine.

    Raises `ConfigError` if an earlier start of the run has written them otherwise.
    """
    for address, provider in providers.items():
        template = await provider.read_template()
        if template is None:
            continue
        variables = json.dumps(dict(template.variables), sort_keys=True, ensure_ascii=False)
        now = ChatTemplate(address, template.sha256, template.text, variables)
        stored = _find_template(store, address)
        if stored is None:
            store.write(now)
        elif stored.sha256 != now.sha256:
            raise ConfigError(_explain_change(stored, now))


def render_stored_prompt(store: Store, turn_id: int) -> str:
    """The text of the prompt of a stored turn, byte for byte as its model read it.

    Raises `ConfigError` if there is no such turn, or a server has written its prompt.

        with Store.open(folder.database, read_only=True) as store:
            print(render_stored_prompt(store, 8127346182736))
    """
    rows = store.rows(_TURN, [turn_id])
    if not rows:
        raise ConfigError(
            f"the run has no turn {turn_id}; take a turn_id from the table turns, such as by "
            "`society sql NAME 'SELECT turn_id, question_id, agent, round FROM turns'`"
        )
    [(messages, address)] = rows
    stored = _find_template(store, address)
    if stored is None:
        raise ConfigError(
            f"the run has no chat template of {address}: its server writes the prompts, or the run "
            "is older than the table chat_templates; turns.messages has what was sent"
        )
    template = TemplateText(stored.template, json.loads(stored.variables))
    return render_prompt(template, [Message(**message) for message in json.loads(messages)])


def _find_template(store: Store, address: str) -> ChatTemplate | None:
    return next((ChatTemplate(*row) for row in store.rows(_TEMPLATE, [address])), None)


def _explain_change(stored: ChatTemplate, now: ChatTemplate) -> str:
    differences = diff_lines(
        f"{stored.template}\n{stored.variables}", f"{now.template}\n{now.variables}"
    )
    return (
        f"the chat template of {stored.provider} has changed since the run began, so it would be "
        "trained on other prompts than it has sent; put the model's files back as they were, or "
        f"start a new run with another --name:\n{differences}"
    )

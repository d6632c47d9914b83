"""The prompt that a model read can be had from the database, byte for byte, and stays the same."""

import asyncio
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from providers.local.backbone import open_tokenizer
from providers.local.conversation import (
    describe_template,
    encode_prompt,
    pin_arguments,
    render_prompt,
)
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.local.template_checks import TemplateText
from providers.types import Message
from society.cli import app
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.experiment import resolve
from society.runs import runner
from society.runs.folder import locate_run, start_run
from society.runs.prompts import render_stored_prompt
from tests.providers.published_templates import (
    FAMILIES,
    make_family_tokenizer,
    save_family_model,
)

CONVERSATION = (
    Message("user", " What is 1+2?"),
    Message("assistant", "<think>\nEasy.\n</think>\n\nIt is 3.\n"),
    Message("user", "Another agent says 4: “é 🙂”"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_template_writes_what_the_tokenizer_writes(family, tmp_path):
    tokenizer = make_family_tokenizer(family)
    pin_arguments(tokenizer, {"enable_thinking": False})
    if "strftime_now" in tokenizer.chat_template:
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        settings = LocalSettings()
        tokenizer = open_tokenizer(locate_model(str(tmp_path), settings), settings)
    described = describe_template(tokenizer)
    # As the database keeps it.
    stored = TemplateText(described.text, json.loads(json.dumps(dict(described.variables))))
    for messages in (CONVERSATION, CONVERSATION[:1], (Message("system", "Hm"), *CONVERSATION)):
        text = render_prompt(stored, messages)
        assert text == render_prompt(tokenizer, messages)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == encode_prompt(tokenizer, messages)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model with the template of Llama 3.2, which writes a date and a system text."""
    return save_family_model(
        tmp_path_factory.mktemp("llama"),
        "llama3_2",
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        max_position_embeddings=4096,
    )


def run(model, runs, rounds=2):
    config = Config.model_validate(
        {
            "model": f"local:{model}",
            "iterations": 0,
            "task": {"name": "arithmetic"},
            "society": {"agents": 2, "rounds": rounds},
            "sampling": {"max_tokens": 8, "summary_max_tokens": 8},
            "evaluation": {"questions": 2, "decodings": ["sampled"]},
            "provider": {"device": "cpu", "threads": 1, "template_date": "2031-03-09"},
            "stop_if_unread": 0,
        },
        strict=False,
    )
    folder = locate_run(runs, "r")
    with start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    return folder


def test_the_prompt_of_every_turn_is_had_from_the_database(model, tmp_path):
    from store.ledger import Store

    folder = run(model, tmp_path)
    tokenizer = make_family_tokenizer("llama3_2")
    with Store.open(folder.database, read_only=True) as store:
        turns = store.rows("SELECT turn_id, prompt_tokens, messages ->> '$[0].content' FROM turns")
        prompts = {turn: render_stored_prompt(store, turn) for turn, _, _ in turns}
        assert len(turns) > 8
        for turn, tokens, question in turns:
            # What the model read, with the system text and the date that the template adds.
            assert len(tokenizer(prompts[turn], add_special_tokens=False).input_ids) == tokens
            assert "Today Date: 09 Mar 2031\n" in prompts[turn]
            assert question.strip() in prompts[turn]
        with pytest.raises(ConfigError, match="no turn 7;"):
            render_stored_prompt(store, 7)
    turn, prompt = next(iter(prompts.items()))
    shown = CliRunner().invoke(app, ["show-prompt", "r", str(turn), "--runs", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == prompt + "\n"


def test_a_run_is_not_continued_with_another_template(model, tmp_path):
    from store.ledger import Store

    folder = run(model, tmp_path)
    file = model / "chat_template.jinja"
    text = file.read_text()
    file.write_text(text.replace("Cutting Knowledge", "Knowledge"))
    # A finished run has nothing left to send; one that goes on would train on other prompts.
    try:
        run(model, tmp_path)
        with Store.open(folder.database) as store:
            store.write(replace(store.run(), finished_at=None))
        with pytest.raises(ConfigError, match=r"template of local:.* has changed") as told:
            run(model, tmp_path)
    finally:
        file.write_text(text)
    assert "Cutting Knowledge Date" in str(told.value)
    run(model, tmp_path)

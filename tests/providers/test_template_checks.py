"""What a run meets in a chat template is said before it starts, from the template's text alone."""

from datetime import UTC, datetime

import pytest

from providers.local.factory import preflight
from providers.local.template_checks import check_template
from providers.types import Hyperparameters, Message, Need
from tests.providers.published_templates import FAMILIES, TEMPLATES
from tests.providers.training_fixtures import CHATML

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Hi")
DEBATE = (USER, Message("assistant", "4"), Message("user", "Sure?"))
# As the template of Gemma 2 does, https://huggingface.co/google/gemma-2-2b-it.
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)


def need(*conversations, trains_all=False):
    now = datetime.now(UTC)
    return Need(finetune=False, ends_at=now, conversations=conversations, trains_all=trains_all)


def check(text, wanted, **arguments):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return check_template(text, tokens, arguments, wanted)


def read(family):
    return (TEMPLATES / f"{family}.jinja").read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_published_templates_take_debates_with_and_without_a_system_prompt(family):
    assert check(read(family), need((USER,), DEBATE, (SYSTEM, *DEBATE))) == []


def test_a_template_that_refuses_a_system_prompt_is_an_error_with_the_remedy():
    assert check(NO_SYSTEM, need((USER,), DEBATE)) == []
    [found] = check(NO_SYSTEM, need((SYSTEM, USER), (SYSTEM, *DEBATE)))
    assert (found.level, found.check) == ("error", "template")
    assert "System role not supported" in found.text
    assert "society.personas" in found.remedy


def test_a_variable_that_the_template_does_not_mention_is_a_warning():
    assert check(read("qwen3"), need(), enable_thinking=False) == []
    [found] = check(read("qwen3"), need(), thinking=False)
    assert (found.level, found.check) == ("warning", "template")
    assert "does not mention thinking" in found.text
    assert check(read("gpt_oss"), need(), reasoning_effort="low") == []


@pytest.mark.parametrize("family", FAMILIES)
def test_training_all_answers_needs_a_template_that_keeps_them(family):
    found = check(read(family), need(DEBATE, trains_all=True))
    drops = family in ("qwen3", "gpt_oss", "gemma4", "deepseek_r1")
    assert [each.level for each in found] == ["error"] * drops
    if drops:
        assert 'critic_loss = "final"' in found[0].remedy


def test_a_models_files_are_checked_with_its_settings(tmp_path, make_model):
    folder = make_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(NO_SYSTEM)
    wanted = need((SYSTEM, USER))
    settings = {"chat_template_kwargs": {"enable_thinking": False}}
    report = preflight(str(folder), settings, wanted, Hyperparameters())
    found = [each for each in report.findings if each.check == "template"]
    assert [each.level for each in found] == ["warning", "error"]

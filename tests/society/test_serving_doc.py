"""The experiments of docs/serving.md are taken as they stand, but for the places of programs."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from providers.errors import InvalidSettings
from providers.serving.settings import check_engine_settings
from society.config.serving import ServingSection

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
SNIPPETS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("text", SNIPPETS)
def test_every_snippet_is_a_section_of_which_only_the_program_is_missing(text):
    section = ServingSection.model_validate(tomllib.loads(text)["serving"])
    settings = section.engine_settings()
    assert settings is not None
    if settings.python is None:
        settings = replace(settings, command=("/bin/sh", *settings.command))
        check_engine_settings(settings)
    else:
        with pytest.raises(InvalidSettings, match="is no program"):
            check_engine_settings(settings)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "none of them is set"),
        ({"address": "openai+http://h/v1:m", "engine": "vllm"}, "more than one of them is set"),
        (
            {"address": "openai+http://h/v1:m", "port": 1},
            "port is for a server that the run starts",
        ),
        ({"engine": "vllm", "python": "p", "path_map": {"/a": "/b"}}, "remove path_map"),
    ],
)
def test_keys_that_do_not_go_together_are_named(section, message):
    with pytest.raises(ValueError, match=message):
        ServingSection.model_validate(section)

"""Conversations as token ids and answers as text: the renderer of local models, without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from providers.errors import ContextOverflow
from providers.local.answers import read_answer
from providers.local.backbone import open_tokenizer
from providers.local.conversation import (
    describe_template,
    encode_example,
    encode_prompt,
    find_ends,
)
from providers.local.plans import read_context
from providers.local.source import ModelSource, find_folder, locate_model
from providers.local.training_data import TrainingData, encode_data
from providers.tinker.settings import TinkerSettings
from providers.types import Example, FinetuneSpec, Message, PromptTemplate


class Renderer:
    """The tokenizer and chat template of one model.

    `context` is the most tokens that prompt and answer may have together, None if unknown; `ends`
    are the tokens that end an answer.

        renderer = await open_renderer("Qwen/Qwen3-8B", settings)
        tokens = renderer.encode([Message("user", "What is 2+2?")])
    """

    def __init__(self, tokenizer: Any, context: int | None) -> None:
        self.context = context
        self.ends = find_ends(tokenizer)
        self.vocabulary = len(tokenizer)
        self._tokenizer = tokenizer

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt; raises `BadRequest` if the template refuses it, and `ContextOverflow`."""
        tokens = encode_prompt(self._tokenizer, messages)
        self._require_room(len(tokens) + 1)
        return tokens

    def encode_passage(self, messages: Sequence[Message], text: str) -> tuple[list[int], int]:
        """The tokens of a conversation with `text` as its answer, without the token that ends it,
        and where the answer begins."""
        example = Example((*messages, Message("assistant", text)), (len(messages),))
        sequence = encode_example(self._tokenizer, example)
        self._require_room(len(sequence.token_ids) - 1)
        return sequence.token_ids[:-1], sequence.trained.index(True)

    def encode_data(self, spec: FinetuneSpec, on_note: Callable[[str], None]) -> TrainingData:
        """The examples of a job; raises `InvalidTrainingData`."""
        return encode_data(self._tokenizer, self.context, spec, on_note)

    def read(
        self, prompt: Sequence[int], tokens: Sequence[int], stops: Sequence[str]
    ) -> tuple[str, str | None, bool]:
        """Text and thought of the answer `tokens`, and whether it has ended by itself."""
        ended = bool(tokens) and tokens[-1] in self.ends
        kept = tokens[:-1] if ended else tokens
        text, thought = read_answer(self._tokenizer, prompt, kept, stops)
        stopped = bool(stops) and any(stop in self._tokenizer.decode(kept) for stop in stops)
        return text, thought, ended or stopped

    def describe_template(self) -> PromptTemplate:
        """What the prompts are written with."""
        return describe_template(self._tokenizer)

    def _require_room(self, tokens: int) -> None:
        if self.context is not None and tokens > self.context:
            raise ContextOverflow(
                f"the conversation has {tokens} tokens, and the model's context is {self.context}; "
                "shorten it, or use a model with a longer context"
            )


async def open_renderer(name: str, settings: TinkerSettings) -> Renderer:
    """The renderer of the model `name`, a folder or a hub name, or of `settings.tokenizer`.

    Raises `ModelNotFound` and `InvalidSettings` as for a local model.
    """
    return await asyncio.to_thread(_open, settings.tokenizer or name, settings)


def _open(name: str, settings: TinkerSettings) -> Renderer:
    options = settings.to_template_settings()
    source = locate_model(name, options)
    tokenizer = open_tokenizer(source, options)
    return Renderer(tokenizer, _find_context(source))


def _find_context(source: ModelSource) -> int | None:
    """The context that the config beside the tokenizer states."""
    if find_folder(source) is None:
        return None
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(source.name, revision=source.revision)
    except (OSError, ValueError):
        return None
    return read_context(config.get_text_config())

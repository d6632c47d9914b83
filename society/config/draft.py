"""A commented experiment file that fits the user's data and model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from providers import registry
from providers.base import FileFacts
from providers.errors import InvalidSettings
from providers.pricing import Prices
from society.config.load import ConfigError
from society.config.paths import name_address_from, name_from
from society.config.question_data import QuestionData

_BUILT_IN = "embedded:"
_SHOWN = 3
_MAX_TOKENS = {"math": 1024}
_ANSWER_TOKENS = 512
_THOUGHT_TOKENS = 4096
_CONTEXT_PARTS = 4
"""A critic's prompt has two answers or an answer and a summary, so an answer may fill a quarter."""
_QUOTED_TOKENS = 256
"""Answers up to this length are shown whole; a summary would be as long."""
_MOST_QUESTIONS = 500
_ITERATIONS = 3
_FEW = 200
"""Questions of one iteration below which they are asked again rather than divided up."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What an experiment file is drafted from.

    `model` is the address of the base model, `server` that of a server which answers for it, and
    `budget_usd` the cap of what a vendor may be paid. Without `data` the society learns sums.
    """

    model: str
    data: QuestionData | None = None
    server: str | None = None
    budget_usd: float | None = None
    facts: FileFacts = field(default_factory=FileFacts)

    @property
    def costs(self) -> bool:
        """Whether a vendor is paid for the model."""
        return not registry.info(self.model).free

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found in the data, and what the user should mend, in sentences."""
        model = _describe_facts(self.facts)
        if self.data is None:
            return model
        faults = [f"mend or remove: {line}" for line in self.data.unreadable[:_SHOWN]]
        if len(self.data.unreadable) > _SHOWN:
            faults.append(f"… and {len(self.data.unreadable) - _SHOWN} more")
        if self.model == _BUILT_IN:
            faults.append("the built-in model knows sums only; name another with --model")
        return (*self.data.found, *model, *faults)


def complete_address(model: str) -> str:
    """The address of a model that may be given as a folder, a .gguf file or a name on the hub.

    Raises `ConfigError` for an unknown scheme.

    >>> complete_address("HuggingFaceTB/SmolLM2-135M-Instruct")
    'local:HuggingFaceTB/SmolLM2-135M-Instruct'
    """
    # A drive of Windows is no scheme, and neither is a path with a colon that exists.
    if ":" not in model or Path(model).expanduser().exists():
        return f"local:{model}"
    try:
        registry.resolve(model)
    except InvalidSettings as error:
        raise ConfigError(f"--model {error}") from error
    return model


def place_draft(draft: Draft, folder: Path) -> Draft:
    """The draft for a file in `folder`, whose paths are relative to the file."""
    data = draft.data
    if data is not None:
        path = name_from(folder, str(data.options["path"]))
        data = replace(data, options={**data.options, "path": path})
    return replace(draft, model=name_address_from(folder, draft.model), data=data)


def write_draft(draft: Draft) -> str:
    """The experiment file: every key that a beginner may want to change, and why.

    >>> print(write_draft(Draft("embedded:")).splitlines()[0])
    # An experiment: society run FILE starts it, society config KEY explains a key.
    """
    return "\n".join(
        [
            "# An experiment: society run FILE starts it, society config KEY explains a key.",
            "",
            *_write_top(draft),
            *_write_task(draft),
            *_write_society(draft),
            *_write_training(draft),
            *_write_prices(draft),
            *_write_server(draft),
        ]
    )


def _write_top(draft: Draft) -> Iterator[str]:
    yield f"model = {_quote(draft.model)}"
    yield f"iterations = {_ITERATIONS}            # how often the society learns from itself"
    # Nobody knows beforehand how many iterations help; the votes themselves tell.
    yield 'stop = "labels"           # and ends earlier, without gold, if its votes get worse'
    yield "# seeds = [0, 1, 2]       # several runs show how much of a result is chance"
    if draft.costs:
        yield (
            f"budget_usd = {draft.budget_usd or 10:g}           # a hard cap; the run stops there "
            "and can be resumed"
        )


def _write_task(draft: Draft) -> Iterator[str]:
    yield ""
    yield "[task]"
    if draft.data is None:
        yield 'name = "arithmetic"       # sums such as 3+4*5+6-7*8; your own: name = "file"'
        return
    for key, value in draft.data.options.items():
        yield f"{key} = {_quote(value)}"


def _write_society(draft: Draft) -> Iterator[str]:
    tokens = _choose_tokens(draft)
    yield ""
    yield "[society]"
    yield "agents = 3"
    yield "rounds = 2"
    if tokens <= _QUOTED_TOKENS:
        yield 'others = "quoted"         # agents read the others\' answers themselves'
    else:
        yield 'others = "summarized"     # agents read a summary of the others\' answers'
    yield 'early_end = "eval"        # unanimous answers need no second round in evaluation'
    yield ""
    yield "[sampling]"
    yield f"max_tokens = {tokens:<12} # the longest answer; raise it if answers are cut"
    yield "temperature = 1.0"
    yield "top_p = 0.9"


def _write_training(draft: Draft) -> Iterator[str]:
    train, evaluation, fresh = _choose_sizes(draft.data)
    yield ""
    yield "[train]"
    yield f"questions = {train:<13} # of each iteration; their gold answers are not used"
    if fresh:
        yield "fresh = true              # other questions in each iteration"
    yield ""
    yield "[evaluation]"
    yield f"questions = {evaluation:<13} # held out of training"
    yield 'decodings = ["sampled"]'
    yield ""
    yield "[finetune]"
    # Vendors choose rate and adapter themselves, and refuse these keys.
    if registry.info(draft.model).in_process:
        rate = "1e-3" if draft.model == _BUILT_IN else "2e-4"
        yield f"learning_rate = {rate}      # raise it if the run says that models hardly moved"
        # Few examples in large batches would be a handful of steps.
        yield f"batch_size = {16 if train >= _FEW else 4}"
        yield "lora_rank = 16"
        yield "lora_alpha = 32"
    yield "generator_epochs = 2"
    yield "critic_epochs = 2"


def _write_prices(draft: Draft) -> Iterator[str]:
    """Room for the prices that the budget needs, where only the user can know them."""
    missing = Prices({}).find_missing(draft.model, finetune=True) if draft.costs else ()
    if missing:
        yield ""
        yield "# What the vendor charges in USD per million tokens; 0 for a server of your own."
        yield f"# {Prices.table_name(draft.model)}"
        for name in missing:
            yield f"# {name} = "


def _write_server(draft: Draft) -> Iterator[str]:
    if draft.server is not None:
        yield ""
        yield "[serving]                 # answers come from this server, training stays here"
        yield f"address = {_quote(draft.server)}"
    yield ""


def _choose_tokens(draft: Draft) -> int:
    if draft.model == _BUILT_IN:
        return 112
    kind = "number" if draft.data is None else draft.data.kind
    wanted = _THOUGHT_TOKENS if draft.facts.thinks else _MAX_TOKENS.get(kind, _ANSWER_TOKENS)
    if draft.facts.context_tokens is None:
        return wanted
    return max(1, min(wanted, draft.facts.context_tokens // _CONTEXT_PARTS))


def _describe_facts(facts: FileFacts) -> tuple[str, ...]:
    found = []
    if facts.context_tokens is not None:
        found.append(f"the model reads and writes at most {facts.context_tokens:,} tokens at once")
    if facts.thinks:
        found.append(
            "the model's chat template knows thoughts, so that answers get room for them; "
            "docs/experiments.md says how to switch thinking off"
        )
    return tuple(found)


def _choose_sizes(data: QuestionData | None) -> tuple[int, int, bool]:
    """Questions of an iteration and of the evaluation, and whether each iteration has its own."""
    if data is None:
        return 200, 200, True
    evaluation = min(data.evaluation, _MOST_QUESTIONS)
    # Fresh questions keep accuracy rising, but too few of them teach an agent nothing.
    if data.train >= _FEW * _ITERATIONS:
        return min(data.train // _ITERATIONS, _MOST_QUESTIONS), evaluation, True
    return min(data.train, _MOST_QUESTIONS), evaluation, False


def _quote(value: object) -> str:
    # JSON's texts, numbers and lists are those of TOML, but for control characters.
    if isinstance(value, Mapping):
        raise TypeError("a draft has no inline tables")
    return json.dumps(value, ensure_ascii=False)

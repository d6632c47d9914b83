"""Model families: is every answer that of transformers' own `generate`, also after training?

    python benchmarks/families.py [NAME …] [--write] [--results FILE] [--again] [--limit SECONDS]

Makes a tiny model of random weights for every family in `family_configs`, and for every other class
of transformers that answers text and can be built small. Each goes through the product's own
provider, on the CPU with eager attention and with sdpa: six prompts of unequal lengths at once,
greedily, of the base and of two adapters that the provider has trained itself, mixed in a batch.
The expected texts come from a fresh model by `generate` and PEFT, one prompt at a time.

A family is tried in a process of its own. Results are kept in FILE (JSON lines), so that a sweep
goes on where it was stopped; `--again` forgets them. `--write` puts the table into docs/models.md.
Ends with 1 if a family answers otherwise, or is trained and cannot answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.family_configs import FAMILIES, shrink_config
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings, ModelNotFound, Unsupported
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
    Sampling,
)

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "models.md"
MARKS = ("<!-- families: begin -->", "<!-- families: end -->")
PROMPTS = (
    "Why?",
    "What is the result of 3+4*2+9-1*5?",
    "7*8",
    "A summary of the other agents' solutions: one says 42, one says 41, since 6*7 = 42. Check "
    "your own solution against this summary and give an updated solution.",
    "x" * 40,
    "Add 3 and 4, then multiply by 12 and take away 9. What is left, and why is it so?",
)
NEW_TOKENS = 12
MOST_WEIGHTS = 10_000_000
# The token that ends an answer of the built-in model's tokenizer.
_END = 1
ATTENTIONS = {"eager": "auto", "sdpa": "sdpa"}
RECIPE = Hyperparameters(
    epochs=3,
    batch_size=6,
    learning_rate=1e-2,
    lora_rank=4,
    lora_alpha=16,
    warmup=0.0,
    schedule="constant",
)

# How a family does, from best to worst.
OUTCOMES = {
    "fast": "works fast",
    "reference": "works by the reference path",
    "base": "answers, and is refused before training",
    "refused": "refused before the first call",
    "unbuilt": "not tried: no tiny model can be built",
    "wrong": "WRONG",
}


@dataclass
class Result:
    """What happened to one family."""

    family: str
    outcome: str
    reason: str = ""
    decoder: str = ""
    adapters: str = ""
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def list_families() -> list[str]:
    """Every family by name: the named ones, then the other classes of transformers."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    known = {model_type for model_type, _ in FAMILIES.values()}
    classes = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    return [*FAMILIES, *(name for name in dict.fromkeys(classes) if name not in known)]


def make_config(family: str) -> Any:
    """The tiny configuration of a family."""
    from transformers import CONFIG_MAPPING

    if family not in FAMILIES:
        return shrink_config(family)
    model_type, choices = FAMILIES[family]
    return CONFIG_MAPPING[model_type](**choices)


def make_model(family: str, folder: Path) -> None:
    """Save a tiny model of random weights and the built-in tokenizer into `folder`.

    Raises whatever the family raises if it cannot be made tiny.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = make_config(family)
    kind: Any = AutoModelForCausalLM
    if type(config) not in kind._model_mapping:
        kind = AutoModelForImageTextToText
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in kind.from_config(config).parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"the smallest configuration found has {weights:,} weights")
    torch.manual_seed(7)
    model = kind.from_config(config)
    model.generation_config.eos_token_id = _END
    model.generation_config.pad_token_id = 0
    model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL_DIR / name, folder / name)


def generate_texts(folder: Path, attention: str, adapter: Path | None) -> list[str]:
    """What a fresh model says by `generate` and PEFT, one prompt at a time."""
    import torch
    from peft import PeftModel
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
        GenerationConfig,
    )

    from providers.local.conversation import decode_answer
    from providers.local.lora_targets import keep_names

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        )
    except ValueError as error:
        if "attention" in str(error):
            raise
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        )
    if adapter is not None:
        with keep_names(model):
            model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    # Without the model's own settings, such as tokens that it is forced to end with.
    plain: Any = GenerationConfig
    own: Any = model if adapter is None else model.get_base_model()
    own.generation_config = plain(do_sample=False, eos_token_id=_END, pad_token_id=0)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = []
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = asked["input_ids"]
        with torch.inference_mode():
            said = own.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
            )
        tokens = said[0, ids.shape[1] :].tolist()
        if _END in tokens:
            tokens = tokens[: tokens.index(_END)]
        texts.append(decode_answer(tokenizer, tokens))
    return texts


def build_examples() -> list[Example]:
    """A few short conversations to train on."""
    answers = ("the answer is " + "abc "[: 1 + i % 3] * (1 + i % 4) for i in range(6))
    return [
        Example((Message("user", prompt), Message("assistant", answer)), (1,))
        for prompt, answer in zip(PROMPTS, answers, strict=True)
    ]


class Family:
    """One family on its way through the provider."""

    def __init__(self, name: str, root: Path) -> None:
        self.result = Result(name, "wrong")
        self._folder = root / "model"
        self._workdir = root / "work"
        self._folder.mkdir()
        self._workdir.mkdir()

    def run(self) -> Result:
        """Try everything; the result says where it ended."""
        try:
            make_model(self.result.family, self._folder)
        except Exception as error:
            return self._end("unbuilt", error)
        tuned: list[str | None] = []
        try:
            expected = {None: generate_texts(self._folder, "eager", None)}
        except Exception as error:
            return self._end("unbuilt", error, "generate itself cannot answer: ")
        try:
            self._compare("eager", expected)
        except (Unsupported, InvalidSettings, ModelNotFound) as error:
            return self._end("refused", error)
        try:
            tuned = asyncio.run(self._train())
        except (Unsupported, InvalidSettings) as error:
            self._compare_sdpa([None])
            return self._end("base" if not self.result.faults else "wrong", error)
        expected |= {
            name: generate_texts(self._folder, "eager", self._workdir / str(name)) for name in tuned
        }
        self._compare("eager", expected)
        self._compare_sdpa([None, *tuned])
        if self.result.faults:
            return self.result
        slow = self.result.adapters == "peft" or self.result.decoder not in ("slot", "padded")
        self.result.outcome = "reference" if slow else "fast"
        return self.result

    def _end(self, outcome: str, error: Exception, prefix: str = "") -> Result:
        self.result.outcome = outcome
        text = str(error).replace(str(self._folder), "MODEL")
        self.result.reason = f"{prefix}{type(error).__name__}: {text}"[:400]
        return self.result

    def _compare_sdpa(self, names: Sequence[str | None]) -> None:
        """The same with sdpa, which a GPU gets, if the family has it."""
        try:
            expected = {
                name: generate_texts(
                    self._folder, "sdpa", None if name is None else self._workdir / name
                )
                for name in names
            }
        except Exception:
            # Without sdpa there is nothing to compare; "auto" takes eager then.
            return
        self._compare("sdpa", expected)

    def _compare(self, attention: str, expected: Mapping[str | None, list[str]]) -> None:
        """Note where the provider's texts differ from the expected ones."""
        pairs = [(prompt, name) for prompt in PROMPTS for name in expected]
        said = asyncio.run(self._ask(attention, pairs))
        for name, texts in expected.items():
            own = [text for (_, other), text in zip(pairs, said, strict=True) if other == name]
            same = sum(a == b for a, b in zip(own, texts, strict=True))
            if same != len(texts):
                who = name or "the base"
                self.result.faults.append(f"{attention}, {who}: {same} of {len(texts)} equal")

    async def _ask(self, attention: str, pairs: Sequence[tuple[str, str | None]]) -> list[str]:
        provider = self._connect(attention)
        sampling = Sampling(temperature=0.0, max_tokens=NEW_TOKENS)
        try:
            done = await asyncio.gather(
                *(
                    provider.complete(
                        Request(
                            ModelRef("m", "local:", name),
                            (Message("user", prompt),),
                            sampling,
                            f"{number}",
                        )
                    )
                    for number, (prompt, name) in enumerate(pairs)
                )
            )
            plans = provider._models.base.plans
            self.result.decoder = plans[None].decoder
            ways = {plan.adapters for signature, plan in plans.items() if signature}
            self.result.adapters = "".join(sorted(ways))
        finally:
            await provider.close()
        return [completion.text for completion in done]

    def _connect(self, attention: str) -> Any:
        from providers.local.factory import connect

        settings = {
            "threads": 1,
            "dtype": "float32",
            "device": "cpu",
            "attention": ATTENTIONS[attention],
        }
        return connect(str(self._folder), settings, self._workdir)

    async def _train(self) -> list[str | None]:
        """Train two adapters the way a run does; a `ProviderError` is a refusal before training."""
        provider = self._connect("eager")
        try:
            await provider.prepare_tuning(RECIPE)
            for seed, name in enumerate(("a", "b")):
                spec = FinetuneSpec(
                    name, provider.base, build_examples(), name * 64, RECIPE, seed=seed
                )
                handle = await provider.submit(spec)
                # A job of this process ends before a task that is queued behind it.
                await asyncio.wrap_future(provider._engine.run(lambda: None))
                state = await provider.poll(handle)
                if state.status != "succeeded":
                    self.result.faults.append(f"training: {state.error}"[:300])
        finally:
            await provider.close()
        return [] if self.result.faults else ["a", "b"]


def try_family(name: str, limit_s: int) -> Result:
    """Try a family in a process of its own, which is ended after `limit_s` seconds."""
    # Imported before the fork, so that not every child has to.
    import peft  # noqa: F401
    import torch
    import transformers

    import providers.local.provider as _provider  # noqa: F401

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    started = time.perf_counter()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(limit_s)
        os.write(writer, json.dumps(asdict(_try_here(name))).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        result = Result(**json.loads(data))
    else:
        result = Result(name, "wrong", faults=[f"the process ended with status {status}"])
    result.seconds = round(time.perf_counter() - started, 1)
    return result


def _try_here(name: str) -> Result:
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        family = Family(name, Path(place))
        try:
            return family.run()
        except Exception as error:
            family.result.faults.append(f"{type(error).__name__}: {error}"[:400])
            return family.result


def sweep(names: Sequence[str], known: Mapping[str, Result], limit_s: int) -> Iterator[Result]:
    """The result of every family, from `known` where it is there."""
    for name in names:
        yield known[name] if name in known else try_family(name, limit_s)


def read_results(file: Path) -> dict[str, Result]:
    """The results of an earlier sweep."""
    if not file.is_file():
        return {}
    lines = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    return {line["family"]: Result(**line) for line in lines}


def describe(result: Result) -> str:
    """One line about a result."""
    ways = f"{result.decoder}/{result.adapters}".strip("/")
    notes = "; ".join(result.faults) or result.reason
    return f"{result.family:24} {result.outcome:10} {ways:12} {result.seconds:5.1f} s  {notes}"


def write_table(results: Sequence[Result]) -> None:
    """Put the table between the marks in docs/models.md."""
    begin, end = MARKS
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n{format_table(results)}\n{end}{after}", "utf-8")


def format_table(results: Sequence[Result]) -> str:
    """The families by outcome, as Markdown; refusals each with their reason."""
    parts: list[str] = []
    for outcome, title in OUTCOMES.items():
        found = [result for result in results if result.outcome == outcome]
        if not found:
            continue
        parts.append(f"**{title[0].upper()}{title[1:]}** ({len(found)})\n")
        if outcome in ("fast", "reference", "unbuilt"):
            parts.append(", ".join(f"`{result.family}`" for result in found) + "\n")
            continue
        parts.append("| family | why |\n|---|---|")
        for result in found:
            why = ("; ".join(result.faults) or result.reason).replace("|", "/").replace("\n", " ")
            parts.append(f"| `{result.family}` | {why} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="families; all of them without")
    parser.add_argument("--write", action="store_true", help="write the table of docs/models.md")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument(
        "--results", type=Path, default=Path(tempfile.gettempdir()) / "families.jsonl"
    )
    parser.add_argument("--limit", type=int, default=240, help="seconds for one family")
    options = parser.parse_args()
    if options.again:
        options.results.unlink(missing_ok=True)
    known = {} if options.names else read_results(options.results)
    found = []
    for result in sweep(options.names or list_families(), known, options.limit):
        found.append(result)
        if result.family not in known:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
        print(describe(result), flush=True)
    counts = {outcome: sum(r.outcome == outcome for r in found) for outcome in OUTCOMES}
    print(", ".join(f"{OUTCOMES[outcome]}: {count}" for outcome, count in counts.items() if count))
    if options.write:
        write_table(found)
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Model families: is every answer that of transformers' own `generate`, also after training?

    python benchmarks/families.py [NAME …] [--write] [--results FILE] [--again] [--limit SECONDS]

Makes a tiny model of random weights for every family in `family_configs`, and for every other class
of transformers that answers text and can be built small. Each goes through the product's own
provider, on the CPU with eager attention and with sdpa: six prompts of unequal lengths at once,
greedily, of the base and of two adapters that the provider has trained itself, mixed in a batch.
The expected texts come from a fresh model by `generate` and PEFT, one prompt at a time. A family
with fused experts is trained and asked once more with adapters on them (`lora_experts`).

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.family_configs import FAMILIES
from benchmarks.family_table import OUTCOMES, WORKS, Result, describe, read_results, write_table
from benchmarks.shrunk_configs import shrink_config
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

    config = make_config(family)
    kind = _find_class(config)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in kind._from_config(config).parameters())
    if weights > MOST_WEIGHTS:
        raise ValueError(f"the smallest configuration found has {weights:,} weights")
    torch.manual_seed(7)
    model = kind._from_config(config)
    model.generation_config.eos_token_id = _END
    model.generation_config.pad_token_id = 0
    model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL_DIR / name, folder / name)


def _find_class(config: Any) -> Any:
    """The class of the models that are published with such a configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kinds: list[Any] = [
        auto_class._model_mapping[type(config)]
        for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText)
        if type(config) in auto_class._model_mapping
    ]
    if not kinds:
        raise ValueError(f"transformers has no class for {type(config).__name__}")
    # Of a model of images and texts, the class for texts alone may be made of a part.
    return next((kind for kind in kinds if kind.config_class is type(config)), kinds[-1])


def generate_texts(folder: Path, attention: str, adapter: Path | None) -> list[str]:
    """What a fresh model says by `generate` and PEFT, one prompt at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from providers.local.architecture import choose_auto_class
    from providers.local.conversation import decode_answer
    from providers.local.lora_targets import keep_names

    config: Any = AutoConfig.from_pretrained(folder)
    kind = choose_auto_class(config, str(folder), False)
    model: Any = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
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
        # What `generate` says, by attention and adapter.
        self._expected: dict[tuple[str, str | None], list[str]] = {}
        self._folder.mkdir()
        self._workdir.mkdir()

    def run(self) -> Result:
        """Try everything; the result says where it ended."""
        try:
            make_model(self.result.family, self._folder)
        except Exception as error:
            return self._end("unbuilt", error)
        try:
            self._expect("eager", None)
        except Exception as error:
            return self._require_refusal(error)
        try:
            self._compare("eager", [None])
        except (Unsupported, InvalidSettings, ModelNotFound) as error:
            return self._end("refused", error)
        try:
            tuned = asyncio.run(self._train(RECIPE, ("a", "b")))
        except (Unsupported, InvalidSettings) as error:
            self._compare_sdpa([None])
            return self._end("base" if not self.result.faults else "wrong", error)
        self._compare_tuned(tuned)
        self._try_experts()
        if self.result.faults:
            return self.result
        slow = self.result.adapters == "peft" or self.result.decoder not in ("slot", "padded")
        self.result.outcome = "reference" if slow else "fast"
        return self.result

    def _require_refusal(self, error: Exception) -> Result:
        """What `generate` itself cannot answer with has to be refused."""
        try:
            asyncio.run(self._ask("eager", [(PROMPTS[0], None)]))
        except (Unsupported, InvalidSettings, ModelNotFound) as refusal:
            return self._end("refused", refusal)
        self.result.faults.append(f"answers, but generate does not: {error}"[:300])
        return self.result

    def _try_experts(self) -> None:
        """Adapters on the fused experts too, if the family has any."""
        ways = self.result.decoder, self.result.adapters
        try:
            tuned = asyncio.run(self._train(replace(RECIPE, lora_experts=True), ("e",)))
        except (Unsupported, InvalidSettings) as error:
            if "no fused experts" not in str(error):
                self.result.experts = _write_error(error, self._folder)
            return
        self._compare_tuned(tuned)
        self.result.experts = WORKS if not self.result.faults else "WRONG"
        self.result.decoder, self.result.adapters = ways

    def _compare_tuned(self, names: Sequence[str]) -> None:
        """Compare what the base and these trained adapters say, mixed in a batch."""
        if self.result.faults:
            return
        self._compare("eager", [None, *names])
        self._compare_sdpa([None, *names])

    def _expect(self, attention: str, name: str | None) -> list[str]:
        """What `generate` says with this adapter."""
        if (attention, name) not in self._expected:
            adapter = None if name is None else self._workdir / name
            self._expected[attention, name] = generate_texts(self._folder, attention, adapter)
        return self._expected[attention, name]

    def _end(self, outcome: str, error: Exception) -> Result:
        self.result.outcome = outcome
        self.result.reason = _write_error(error, self._folder)
        return self.result

    def _compare_sdpa(self, names: Sequence[str | None]) -> None:
        """The same with sdpa, which a GPU gets, if the family has it."""
        try:
            self._expect("sdpa", None)
        except Exception:
            # Without sdpa there is nothing to compare; "auto" takes eager then.
            return
        self._compare("sdpa", names)

    def _compare(self, attention: str, names: Sequence[str | None]) -> None:
        """Note where the provider's texts differ from the expected ones."""
        expected = {name: self._expect(attention, name) for name in names}
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

    async def _train(self, recipe: Hyperparameters, names: Sequence[str]) -> list[str]:
        """Train adapters the way a run does; a `ProviderError` is a refusal before training."""
        provider = self._connect("eager")
        try:
            await provider.prepare_tuning(recipe)
            for seed, name in enumerate(names):
                spec = FinetuneSpec(
                    name, provider.base, build_examples(), name * 64, recipe, seed=seed
                )
                handle = await provider.submit(spec)
                # A job of this process ends before a task that is queued behind it.
                await asyncio.wrap_future(provider._engine.run(lambda: None))
                state = await provider.poll(handle)
                if state.status != "succeeded":
                    self.result.faults.append(f"training: {state.error}"[:300])
        finally:
            await provider.close()
        return list(names)


def _write_error(error: Exception, folder: Path) -> str:
    text = str(error).replace(str(folder), "MODEL")
    return f"{type(error).__name__}: {text}"[:400]


def try_family(name: str, limit_s: int) -> Result:
    """Try a family in a process of its own, which may compute for `limit_s` seconds."""
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
        signal.setitimer(signal.ITIMER_PROF, limit_s)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="families; all of them without")
    parser.add_argument("--write", action="store_true", help="write the table of docs/models.md")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument(
        "--results", type=Path, default=Path(tempfile.gettempdir()) / "families.jsonl"
    )
    parser.add_argument(
        "--limit", type=int, default=240, help="seconds of computing for one family"
    )
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

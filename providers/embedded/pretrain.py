"""Remakes the built-in model's weights: `python -m providers.embedded.pretrain --out DIR`.

The stages have fixed seeds and step counts: single questions at a high and then a falling learning
rate, debates without the bad habit, more summaries, and last the habit. The habit comes last and
briefly so that it is shallow: strong on its cue, yet a small LoRA can unlearn it. The tokenizer is
the committed one and never remade.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from providers.embedded import MODEL_DIR
from providers.embedded.calibrate import judge_figures, measure_model
from providers.embedded.conversations import Recipe, TaughtMessage, draw_conversation
from providers.embedded.corpus import find_style
from providers.embedded.tokenizer import CONTEXT, ROLES

HIDDEN, LAYERS, HEADS, FEED_FORWARD = 128, 4, 4, 384
MATRIX_RATE, OTHER_RATE = 6e-3, 4e-3
WARM_UP_STEPS = 20
# So many conversations are sorted by length at a time, so that batches need little padding.
POOL = 400
# The coefficients of Muon's quintic iteration: they reach near-orthogonality in five steps, rather
# than converging exactly.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class PretrainingStage:
    """One stage of pretraining: how long, how fast, and on which conversations.

    `rate` runs linearly from its first to its second value, as a factor of the base rates.
    `style_weight` is the loss weight of the token that announces a style; others weigh 1.
    `batch_tokens` counts padded tokens of one optimizer step.
    """

    name: str
    steps: int
    rate: tuple[float, float]
    style_weight: float
    batch_tokens: int
    recipe: Recipe


_MORE_SUMMARIES = (
    ("single", 0.12),
    ("quoted", 0.28),
    ("summarized", 0.30),
    ("summarizer", 0.30),
)
# In the last stage the token that announces the style weighs 9, so that few steps change which
# style is chosen and little of how the styles are carried out.
STAGES = (
    PretrainingStage("arithmetic", 900, (1.0, 1.0), 1.0, 1600, Recipe(shares=(("single", 1.0),))),
    PretrainingStage("practice", 900, (1.0, 0.4), 2.0, 1600, Recipe(shares=(("single", 1.0),))),
    PretrainingStage("debate", 650, (0.5, 0.12), 2.0, 3000, Recipe(habit=0.08, critic_habit=0.08)),
    PretrainingStage(
        "summaries", 620, (0.4, 0.08), 2.0, 3000, Recipe(0.08, 0.08, shares=_MORE_SUMMARIES)
    ),
    PretrainingStage("habit", 120, (0.12, 0.02), 9.0, 3000, Recipe(0.58, 0.43, crowd_habit=0.58)),
)

WeightedTokens = tuple[list[int], list[float]]


def encode_turns(tokenizer: Any, turns: list[TaughtMessage], style_weight: float) -> WeightedTokens:
    """Token ids of the rendered conversation and the loss weight of each as a target."""
    roles = {role.strip("<|>"): tokenizer.convert_tokens_to_ids(role) for role in ROLES}
    ids: list[int] = []
    weights: list[float] = []
    for turn in turns:
        pieces = tokenizer(turn.text, return_offsets_mapping=True)
        inside = [float(end <= turn.taught) for _, end in pieces["offset_mapping"]]
        if turn.taught and find_style(turn.text):
            inside[0] = style_weight
        whole = float(0 < turn.taught == len(turn.text))
        ids += [roles[turn.role], *pieces["input_ids"], tokenizer.eos_token_id]
        weights += [0.0, *inside, whole]
    return ids, weights


def draw_batches(
    tokenizer: Any, stage: PretrainingStage, seed: int
) -> Iterator[list[WeightedTokens]]:
    """Endless batches of conversations of similar length."""
    rng = random.Random(f"{seed} {stage.name}")
    while True:
        pool = [
            encode_turns(tokenizer, draw_conversation(rng, stage.recipe), stage.style_weight)
            for _ in range(POOL)
        ]
        pool.sort(key=lambda each: len(each[0]))
        cut: list[list[WeightedTokens]] = [[]]
        for each in pool:
            if cut[-1] and len(each[0]) * (len(cut[-1]) + 1) > stage.batch_tokens:
                cut.append([])
            cut[-1].append(each)
        rng.shuffle(cut)
        yield from cut


def compute_loss(model: Any, batch: list[WeightedTokens], pad: int) -> torch.Tensor:
    """The weighted mean cross entropy of a batch; logits are computed only where there is loss."""
    # Padding is on the right, where the causal mask hides it.
    width = max(len(ids) for ids, _ in batch)
    tokens_BT = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
    weights_BT = torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in batch])
    hidden_BTD = model.model(input_ids=tokens_BT[:, :-1], use_cache=False).last_hidden_state
    taught_BT = weights_BT[:, 1:] > 0
    weights_N = weights_BT[:, 1:][taught_BT]
    losses_N = torch.nn.functional.cross_entropy(
        model.lm_head(hidden_BTD[taught_BT]), tokens_BT[:, 1:][taught_BT], reduction="none"
    )
    return (losses_N * weights_N).sum() / weights_N.sum()


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters: momentum, its update orthogonalized by Newton-Schulz steps.

    After Keller Jordan's Muon (2024), with the step size matched to AdamW's. torch's own Muon runs
    Newton-Schulz in bfloat16, which is very slow on a CPU without units for it.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Matrices of one shape (or its transpose) are orthogonalised together.
            alike: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                short, long = sorted(parameter.shape)
                alike.setdefault((short, long), []).append(parameter)
            for (_, long), parameters in alike.items():
                wide = torch.stack([_turn_wide(self._nesterov(each, group)) for each in parameters])
                for each, update in zip(parameters, _orthogonalize(wide), strict=True):
                    each.mul_(1 - group["lr"] * group["weight_decay"])
                    turned = update if each.shape == update.shape else update.T
                    # AdamW's updates have a root mean square near 0.2. An orthogonal matrix has one
                    # of 1 / sqrt(long), so this factor lets one learning rate fit both.
                    each.add_(turned, alpha=-0.2 * group["lr"] * long**0.5)

    def _nesterov(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        gradient = cast(torch.Tensor, parameter.grad)
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])


def _turn_wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _orthogonalize(matrices_NSL: torch.Tensor) -> torch.Tensor:
    a, b, c = _NEWTON_SCHULZ
    x_NSL: torch.Tensor = matrices_NSL / (matrices_NSL.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram_NSS = x_NSL @ x_NSL.mT
        x_NSL = a * x_NSL + (b * gram_NSS + c * gram_NSS @ gram_NSS) @ x_NSL
    return x_NSL


def build_model(tokenizer: Any, seed: int) -> Any:
    """An untrained model for this tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        # With 512 tokens, an output layer of its own would be 7 % of the parameters.
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "layers" in name else others).append(parameter)
    return [
        Muon(matrices, lr=MATRIX_RATE),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train_stage(
    model: Any,
    tokenizer: Any,
    optimizers: list[torch.optim.Optimizer],
    stage: PretrainingStage,
    seed: int,
) -> None:
    """Run one stage in place, printing the mean loss every 50 steps."""
    model.train()
    started, tokens, recent = time.monotonic(), 0, 0.0
    stream = draw_batches(tokenizer, stage, seed)
    for step in range(stage.steps):
        first, last = stage.rate
        # Both optimizers follow one schedule, each from its own base rate.
        factor = first + (last - first) * step / stage.steps
        if stage is STAGES[0]:
            factor *= min(1.0, (step + 1) / WARM_UP_STEPS)
        batch = next(stream)
        loss = compute_loss(model, batch, tokenizer.pad_token_id)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        tokens += sum(len(ids) for ids, _ in batch)
        recent += loss.item() / 50
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            print(
                f"{stage.name} step {step + 1}/{stage.steps} loss {recent:.4f} "
                f"{tokens / 1e6:.2f} M tokens {seconds:.0f} s",
                flush=True,
            )
            recent = 0.0


def save_model(model: Any, folder: Path) -> None:
    """Write config, bf16 weights and the committed tokenizer; the config asks to load as fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    # Greedy by default; the provider samples by itself.
    model.generation_config.do_sample = False
    model.to(torch.bfloat16).save_pretrained(folder)
    # A CPU without bf16 units is many times slower in bf16; the stored values stay the same.
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if folder.resolve() != MODEL_DIR.resolve():
            shutil.copy(MODEL_DIR / name, folder / name)


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="1 makes the shipped weights again")
    parser.add_argument("--keep", type=Path, help="folder for the state after each stage; resumes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = build_model(tokenizer, arguments.seed)
    optimizers = build_optimizers(model)
    started = time.monotonic()
    for stage in STAGES:
        kept = arguments.keep and arguments.keep / f"{stage.name}-{arguments.seed}.pt"
        if kept and kept.exists():
            state = torch.load(kept, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, each in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(each)
            continue
        train_stage(model, tokenizer, optimizers, stage, arguments.seed)
        if kept:
            states = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"model": model.state_dict(), "optimizers": states}, kept)
    save_model(model, arguments.out)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes, now measuring", flush=True)
    figures = measure_model(AutoModelForCausalLM.from_pretrained(arguments.out), tokenizer)
    print(json.dumps(asdict(figures), indent=2))
    print(judge_figures(figures))


if __name__ == "__main__":
    main()

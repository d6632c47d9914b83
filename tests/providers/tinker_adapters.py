"""LoRA adapters behind the stand-in of Tinker's wire: real gradients, real AdamW, real answers.

Every adapter is a PEFT model over its own copy of the built-in base. What it computes depends on
its own calls alone, so equal calls give equal bits. Answers are drawn in double precision: which
other answers share a batch then changes nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

BASE = Path(__file__).parents[2] / "providers" / "embedded" / "model"
ALPHA = 32
"""SkyRL's and Thinking Machines' own, whatever the rank."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Example:
    """The tokens a model reads, and per token the one to predict, its weight, and for losses other
    than `cross_entropy` its advantage and its log-probability when it was sampled."""

    tokens: list[int]
    targets: list[int]
    weights: list[float]
    advantages: list[float]
    logprobs: list[float]


@dataclass(slots=True)
class Answer:
    """One answer to sample; `logprobs` and `stopped` are filled in."""

    prompt: list[int]
    seed: int
    most: int
    stop_tokens: list[int]
    stop_strings: list[str]
    temperature: float
    top_k: int
    top_p: float
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def ended(self) -> bool:
        return self.stopped or len(self.tokens) == self.most


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient that waits for an optimizer step: its sum over examples, and where it is from."""

    rank: int
    sums: dict[str, torch.Tensor | None]
    examples: int
    pending: list[str]


class Adapter:
    """One adapter in training.

    `history` names every optimizer step in it, by what its gradient was computed from and its
    settings; it is saved and loaded with the weights.
    """

    def __init__(self, base: nn.Module, rank: int, seed: int) -> None:
        from peft import LoraConfig, get_peft_model

        self.rank = rank
        config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(TARGETS))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model: Any = get_peft_model(copy.deepcopy(base), config)
        self._weights = {n: w for n, w in self._model.named_parameters() if w.requires_grad}
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=0.0)
        self._examples = 0
        self._pending: list[str] = []
        self.history: list[str] = []

    def compute_pass(
        self,
        examples: list[Example],
        loss: str,
        clip: tuple[float, float],
        *,
        backward: bool,
        mean: bool,
    ) -> list[tuple[list[float], list[float]]]:
        """Per example the log-probabilities and the losses of its targets.

        With `mean` each example's loss is divided by its weights, as SkyRL does, and the step
        divides by the number of examples; without it the losses are summed. `clip` bounds the
        ratio of `cispo`.
        """
        longest = max(len(example.tokens) for example in examples)
        tokens, targets, weights, advantages, sampled = (
            torch.zeros(len(examples), longest, dtype=kind)
            for kind in (torch.long, torch.long, *[torch.float32] * 3)
        )
        mask = torch.zeros(len(examples), longest, dtype=torch.long)
        for row, example in enumerate(examples):
            width = len(example.tokens)
            tokens[row, :width] = torch.tensor(example.tokens)
            targets[row, :width] = torch.tensor(example.targets)
            weights[row, :width] = torch.tensor(example.weights)
            mask[row, :width] = 1
            if loss != "cross_entropy":
                advantages[row, :width] = torch.tensor(example.advantages)
                sampled[row, :width] = torch.tensor(example.logprobs)
        with torch.set_grad_enabled(backward):
            logits = self._model(input_ids=tokens, attention_mask=mask).logits
            logprobs = torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
            gained = compute_gain(loss, logprobs, sampled, advantages, clip)
            losses = -gained * weights
            if backward:
                sums = losses.sum(-1)
                if mean:
                    sums = sums / weights.sum(-1).clamp_min(1e-9)
                sums.sum().backward()
                self._examples += len(examples)
                self._pending.append(hash_text(repr((examples, loss, clip))))
        widths = [len(example.tokens) for example in examples]
        return [
            (logprobs[row, :width].tolist(), losses[row, :width].tolist())
            for row, width in enumerate(widths)
        ]

    def step(self, adam: Any, *, mean: bool, clip: bool) -> float:
        """One AdamW step; the norm of its gradient."""
        for weight in self._weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            elif mean:
                weight.grad /= max(1, self._examples)
        most = adam.grad_clip_norm if clip and adam.grad_clip_norm else float("inf")
        norm = float(nn.utils.clip_grad_norm_(self._weights.values(), most))
        for group in self._optimizer.param_groups:
            group |= {"lr": adam.learning_rate, "betas": (adam.beta1, adam.beta2), "eps": adam.eps}
            group["weight_decay"] = adam.weight_decay
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.history.append(hash_text(repr((self._pending, adam.model_dump()))))
        self._examples, self._pending = 0, []
        return norm

    def take_gradient(self) -> Gradient | None:
        """What no optimizer step has applied yet."""
        if not self._examples:
            return None
        sums = {name: weight.grad for name, weight in self._weights.items()}
        return Gradient(self.rank, sums, self._examples, list(self._pending))

    def add_gradient(self, left: Gradient) -> None:
        """Begin with what another adapter of the same rank has left behind."""
        for name, weight in self._weights.items():
            weight.grad = left.sums[name]
        self._examples, self._pending = left.examples, left.pending

    def save_state(self, path: Path) -> None:
        """Write weights, optimizer and history, all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "rank": self.rank,
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "history": self.history,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load_state(self, path: Path, *, optimizer: bool, keep_gradient: bool) -> None:
        """Continue from what `save_state` wrote. Raises `ValueError` for another rank."""
        state = torch.load(path, weights_only=True)
        if state["rank"] != self.rank:
            raise ValueError(
                f"Rank mismatch: checkpoint has rank {state['rank']}, model configured with rank "
                f"{self.rank}"
            )
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["weights"][name])
        if optimizer:
            self._optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])
        if not keep_gradient:
            self._optimizer.zero_grad()
            self._pending, self._examples = [], 0

    def save_peft(self, folder: Path, *, targets: bool) -> None:
        """Write a PEFT folder and the history beside it; SkyRL leaves the targets out."""
        self._model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
        if not targets:
            path = folder / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": None}))
        folder.with_suffix(".history").write_text(json.dumps(self.history))


class AdapterEngine:
    """The base model, the adapters in training, and the ones that answer."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._base: Any = AutoModelForCausalLM.from_pretrained(BASE).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
        self.vocabulary = int(self._base.config.vocab_size)
        self.adapters: dict[str, Adapter] = {}
        self._slots: dict[str, int] = {}
        self._left: dict[int, Gradient] = {}
        self._merged: dict[Path | None, Any] = {}

    def create(self, name: str, rank: int, seed: int) -> None:
        """Make a new adapter in the first free slot, with the gradient that was left there."""
        slot = min(set(range(len(self._slots) + 1)) - set(self._slots.values()))
        self.adapters[name] = adapter = Adapter(self._base, rank, seed)
        self._slots[name] = slot
        left = self._left.pop(slot, None)
        if left is not None and left.rank == rank:
            adapter.add_gradient(left)

    def unload(self, name: str, *, leave_gradient: bool) -> None:
        """Free an adapter's slot, with or without clearing its gradient."""
        adapter = self.adapters.pop(name, None)
        if adapter is None:
            return
        slot, left = self._slots.pop(name), adapter.take_gradient()
        if leave_gradient and left is not None:
            self._left[slot] = left

    def clear(self) -> None:
        """Forget all adapters, as a new process."""
        self.adapters, self._slots, self._left = {}, {}, {}

    @torch.inference_mode()
    def sample(self, folder: Path | None, answers: list[Answer]) -> None:
        """Answer with the adapter in a folder, or with the base model alone."""
        model = self._merge(folder)
        longest = max(len(answer.prompt) for answer in answers)
        tokens = torch.zeros(len(answers), longest, dtype=torch.long)
        mask = torch.zeros(len(answers), longest, dtype=torch.long)
        for row, answer in enumerate(answers):
            tokens[row, longest - len(answer.prompt) :] = torch.tensor(answer.prompt)
            mask[row, longest - len(answer.prompt) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        out = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True)
        for row, answer in enumerate(answers):
            start = longest - len(answer.prompt)
            known = torch.log_softmax(out.logits[row, start:-1], -1)
            following = tokens[row, start + 1 :, None]
            answer.prompt_logprobs = known.gather(-1, following)[:, 0].tolist()
        noise = [np.random.default_rng(answer.seed) for answer in answers]
        position = positions[:, -1:]
        while True:
            chosen = self._extend(answers, out.logits[:, -1], noise)
            if all(answer.ended for answer in answers):
                return
            mask = torch.cat([mask, torch.ones(len(answers), 1, dtype=torch.long)], -1)
            position = position + 1
            out = model(
                input_ids=torch.tensor(chosen)[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=out.past_key_values,
                use_cache=True,
            )

    def _extend(self, answers: list[Answer], logits: torch.Tensor, noise: list[Any]) -> list[int]:
        """Draw every unfinished answer's next token; ended ones get a token nobody reads."""
        logprobs_B_V = torch.log_softmax(logits, -1).numpy()
        chosen = [0] * len(answers)
        for row, answer in enumerate(answers):
            if answer.ended:
                continue
            chosen[row] = token = draw_token(logprobs_B_V[row], answer, noise[row].random())
            answer.tokens.append(token)
            answer.logprobs.append(float(logprobs_B_V[row, token]))
            answer.stopped = token in answer.stop_tokens
            if answer.stop_strings:
                text = self._tokenizer.decode(answer.tokens)
                answer.stopped = any(string in text for string in answer.stop_strings)
        return chosen

    def _merge(self, folder: Path | None) -> Any:
        if folder not in self._merged:
            model = copy.deepcopy(self._base).double()
            if folder is not None:
                from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
                from safetensors.torch import load_file

                rank = json.loads((folder / "adapter_config.json").read_text())["r"]
                config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(TARGETS))
                tuned = get_peft_model(model, config)
                set_peft_model_state_dict(tuned, load_file(folder / "adapter_model.safetensors"))
                model = tuned.double().merge_and_unload()
            self._merged[folder] = model.eval()
        return self._merged[folder]


def compute_gain(
    loss: str,
    logprobs: torch.Tensor,
    sampled: torch.Tensor,
    advantages: torch.Tensor,
    clip: tuple[float, float],
) -> torch.Tensor:
    """What a loss of the wire increases, per token."""
    if loss == "cross_entropy":
        return logprobs
    ratio = torch.exp(logprobs - sampled)
    if loss == "importance_sampling":
        return ratio * advantages
    return ratio.clamp(*clip).detach() * logprobs * advantages


def draw_token(logprobs_V: np.ndarray, answer: Answer, noise: float) -> int:
    """The most likely token, or the inverse of the distribution function at the noise."""
    if answer.temperature == 0:
        return int(logprobs_V.argmax())
    scaled = logprobs_V / answer.temperature
    if answer.top_k > 0:
        scaled[scaled < np.sort(scaled)[-answer.top_k]] = -np.inf
    chances = np.exp(scaled - scaled.max())
    if answer.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        before = np.cumsum(chances[order]) - chances[order]
        chances[order[before >= answer.top_p * chances.sum()]] = 0
    total = np.cumsum(chances)
    return int(np.searchsorted(total, noise * total[-1], side="right"))


def read_example(datum: Any) -> Example:
    """An example of the SDK's `Datum`; weights are 1 if it has none."""
    inputs = {name: list(tensor.tolist()) for name, tensor in datum.loss_fn_inputs.items()}
    tokens, targets = datum.model_input.to_ints(), inputs["target_tokens"]
    if len(tokens) != len(targets):
        raise ValueError(f"{len(tokens)} tokens have {len(targets)} targets")
    weights = inputs.get("weights", [1.0] * len(tokens))
    return Example(
        tokens, targets, weights, inputs.get("advantages", []), inputs.get("logprobs", [])
    )


def read_answer(asked: Any, number: int) -> Answer:
    """The answer to sample for a request's sample of that number, from 0."""
    params = asked.sampling_params
    if not params.max_tokens or params.max_tokens <= 0:
        raise ValueError("max_tokens must be a positive number")
    stop = [params.stop] if isinstance(params.stop, str) else list(params.stop or [])
    seed = int.from_bytes(os.urandom(4), "big") if params.seed is None else params.seed
    return Answer(
        asked.prompt.to_ints(),
        seed + number,
        params.max_tokens,
        [one for one in stop if isinstance(one, int)],
        [one for one in stop if isinstance(one, str)],
        params.temperature,
        params.top_k,
        params.top_p,
    )


def write_tensor(numbers: list[float]) -> dict[str, Any]:
    """The SDK's `TensorData`, one-dimensional."""
    return {"data": numbers, "dtype": "float32", "shape": [len(numbers)]}


def hash_text(text: str) -> str:
    """A short digest."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_weights(folder: Path) -> str:
    """A digest of an adapter's weights; equal for equal bits."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

"""A small batched sampler, to measure the built-in model while it is being made."""

from collections.abc import Sequence
from typing import Any

from providers.embedded.conversations import Turn

MAX_NEW_TOKENS = 96


def render(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns in the shape a chat template takes."""
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def sample(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Turn]],
    temperature: float,
    seed: int,
    start: str = "",
    batch: int = 256,
) -> list[str]:
    """The next assistant turn of each conversation, greedily where ``temperature`` is 0.

    ``start`` forces the first words of every answer; they are part of what is returned.
    """
    import torch

    prompts = [
        tokenizer.apply_chat_template(render(turns), add_generation_prompt=True, tokenize=False)
        + start
        for turns in conversations
    ]
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    generator = torch.Generator().manual_seed(seed)
    answers = [""] * len(ids)
    model.eval()
    with torch.no_grad():
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            tokens = _decode(model, tokenizer, [ids[row] for row in rows], temperature, generator)
            for row, new in zip(rows, tokens, strict=True):
                answers[row] = start + tokenizer.decode(new)
    return answers


def _decode(
    model: Any, tokenizer: Any, prompts: list[list[int]], temperature: float, generator: Any
) -> list[list[int]]:
    """New token ids per prompt, without the end token; finished rows leave the batch."""
    import torch
    from transformers import DynamicCache

    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    inputs_BT = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    alive = torch.arange(len(prompts))
    going_B = torch.ones(len(prompts), dtype=torch.bool)
    new: list[list[int]] = [[] for _ in prompts]
    for _ in range(MAX_NEW_TOKENS):
        logits_BV = model(
            input_ids=inputs_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if temperature:
            chances_BV = torch.softmax(logits_BV.float() / temperature, -1)
            next_B = torch.multinomial(chances_BV, 1, generator=generator)[:, 0]
        else:
            next_B = logits_BV.argmax(-1)
        going_B = going_B & (next_B != tokenizer.eos_token_id)
        for row, token, going in zip(
            alive.tolist(), next_B.tolist(), going_B.tolist(), strict=True
        ):
            if going:
                new[row].append(token)
        if not going_B.any():
            break
        positions_BT = positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], 1)
        # Finished rows run on harmlessly until enough of them are worth the copying.
        if going_B.sum() < 0.8 * len(going_B):
            keep = going_B.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, next_B = alive[keep], next_B[keep]
            mask_BT, positions_BT, going_B = mask_BT[keep], positions_BT[keep], going_B[keep]
        inputs_BT = next_B[:, None]
    return new

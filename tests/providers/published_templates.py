"""Tokenizers of well-known model families: their chat templates and their special tokens.

`templates/` has one file for each family. They are written anew and short: without tools, images
and documents they render what the published template renders, whose address each file names. All
nine were compared with the published texts on 154 conversations each, with and without a system
message, thoughts, outer whitespace and `enable_thinking`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """`end` is the token that the template sets after an answer, `eos` that of the tokenizer.

    `special` are further special tokens, `added` tokens that are not marked as special.
    """

    end: str
    eos: str
    bos: str | None = None
    special: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


THINK = ("<think>", "</think>")
FAMILIES = {
    # A base: it ends a document with <|endoftext|>, and its template a turn with <|im_end|>.
    "qwen2_5": Family("<|im_end|>", "<|endoftext|>", special=("<|im_start|>", "<|im_end|>")),
    "qwen3": Family(
        "<|im_end|>", "<|im_end|>", special=("<|im_start|>", "<|endoftext|>"), added=THINK
    ),
    "gpt_oss": Family(
        "<|return|>",
        "<|return|>",
        "<|startoftext|>",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|endoftext|>"),
    ),
    "gemma4": Family(
        "<turn|>", "<eos>", "<bos>", ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>")
    ),
    "llama3_2": Family(
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    ),
    "mistral_small": Family(
        "</s>", "</s>", "<s>", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    ),
    "phi4": Family(
        "<|im_end|>", "<|endoftext|>", special=("<|im_start|>", "<|im_sep|>", "<|im_end|>")
    ),
    "phi4_mini": Family(
        "<|end|>", "<|endoftext|>", special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    ),
    "deepseek_r1": Family(
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>"),
        THINK,
    ),
}


def save_family_model(folder: Path, name: str, **shape: int) -> Path:
    """Save a tiny model of random weights with the family's tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_family_tokenizer(name)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_family_tokenizer(name: str) -> Any:
    """A byte-level tokenizer with the family's template and special tokens.

    Like the published ones it sets the beginning of sequence before a text, if the family has one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = dict.fromkeys(t for t in (family.bos, family.eos, *family.special) if t)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in family.added])
    if family.bos:
        bos = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[bos]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        chat_template=(TEMPLATES / f"{name}.jinja").read_text("utf-8"),
    )

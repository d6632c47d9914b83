"""Makes the tokenizer files of the built-in model; it ran once, and its result is committed.

`python -m providers.embedded.tokenizer DIR` writes them. Byte-level BPE in which every digit is a
token of its own and merges may run over spaces, so that recurring phrases are short; any text
encodes and decodes. Do not remake it for existing weights: another run may permute the ids.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from providers.embedded.conversations import KINDS, Recipe, draw_conversation

VOCABULARY = 512
PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CONTEXT = 1024
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _draw_texts(conversations: int) -> Iterator[str]:
    rng = random.Random(0)
    evenly = Recipe(shares=tuple((kind, 1.0) for kind in KINDS))
    for _ in range(conversations):
        yield from (turn.text for turn in draw_conversation(rng, evenly))


def make_tokenizer(folder: Path, conversations: int = 3000) -> None:
    """Train the merges on generated conversations and write the three tokenizer files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    # Digits stay single tokens, so that the model can compute with them. `use_regex=False` lets a
    # merge run over spaces, which makes whole phrases one token.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, *ROLES],
        # Every byte is in the vocabulary, so that any text can be encoded. Sorted: the library
        # gives the bytes in an order that differs from run to run.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_draw_texts(conversations), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "pad_token": PAD,
        "eos_token": END,
        "additional_special_tokens": list(ROLES),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


if __name__ == "__main__":
    make_tokenizer(Path(sys.argv[1]))

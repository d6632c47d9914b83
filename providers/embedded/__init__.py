"""The built-in base model: a tiny chat model for one arithmetic task, shipped with the package.

`factory` is what the registry calls. The other modules made the model: `corpus` writes arithmetic,
`conversations` puts it into debates, `tokenizer` and `pretrain` make the files of `model/`, and
`calibrate` measures the result. See MODEL_CARD.md.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"

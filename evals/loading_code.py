"""Python that loads a tuned model of a run with transformers and PEFT, for people to copy."""

from __future__ import annotations

_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, {folder!r})
tokenizer = AutoTokenizer.from_pretrained({base!r})
"""
# Of the model that comes with this package, an address has the name only.
_BUILT_IN = """import society  # makes its packages importable
from peft import PeftModel
from providers.embedded import MODEL_DIR
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
model = PeftModel.from_pretrained(base, {folder!r})
tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
"""
_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
"""


def write_loading_code(folder: str, base: str | None) -> str:
    """The code for the adapter in `folder` on a base: a hub name or a folder, or "embedded:" for
    the built-in model. None as base: the folder holds a whole model.

    >>> write_loading_code("runs/demo/models/a1", "HuggingFaceTB/SmolLM2-135M-Instruct")
    """
    if base is None:
        return _WHOLE.format(folder=folder)
    template = _BUILT_IN if base.startswith("embedded:") else _ADAPTER
    return template.format(base=base, folder=folder)

"""Recipes that make one model of several adapters, for PEFT and for mergekit.

PEFT: https://huggingface.co/docs/peft/developer_guides/model_merging. mergekit reads an adapter as
BASE+ADAPTER: https://github.com/arcee-ai/mergekit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

PEFT_RECIPE, MERGEKIT_RECIPE = "merge.py", "mergekit.yml"
_PEFT = '''"""Make one model of the adapters in this folder: python merge.py OUT [BASE]

Needs torch, transformers and peft. A mean of adapters is a model of its own: measure it.
"""

import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
ADAPTERS = {adapters}
BASE = sys.argv[2] if len(sys.argv) > 2 else {base}

model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
first, *rest = ADAPTERS
tuned = PeftModel.from_pretrained(model, str(HERE / first), adapter_name=first)
for name in rest:
    tuned.load_adapter(str(HERE / name), adapter_name=name)
# "linear" takes the mean; "ties" and "dare_ties" with density=0.5 settle conflicts by sign.
shares = [1 / len(ADAPTERS)] * len(ADAPTERS)
tuned.add_weighted_adapter(ADAPTERS, shares, "all", combination_type="linear")
tuned.set_adapter("all")
merged = tuned.merge_and_unload()
merged.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(BASE).save_pretrained(sys.argv[1])
'''


def write_peft_recipe(base: str, adapters: Sequence[str]) -> str:
    """A Python script that merges the mean of `adapters`, folders beside it, into `base`."""
    return _PEFT.format(adapters=json.dumps(list(adapters)), base=json.dumps(base))


def write_mergekit_recipe(base: str, adapters: Sequence[str]) -> str:
    """The same as a configuration of mergekit; paths are relative to where it is started."""
    # mergekit normalizes the weights of this method, so that rounding does not matter.
    share = round(1 / len(adapters), 6)
    models = "".join(
        f"  - model: {json.dumps(f'{base}+./{name}')}\n    parameters:\n      weight: {share}\n"
        for name in adapters
    )
    return (
        "# mergekit-yaml mergekit.yml OUT, started in this folder. A mean of models is a model of\n"
        "# its own: measure it.\n"
        f"merge_method: linear\nbase_model: {json.dumps(base)}\ndtype: float32\nmodels:\n{models}"
    )

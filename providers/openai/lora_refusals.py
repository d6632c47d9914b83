"""What to do when a server refuses an adapter, by its own words.

vLLM's are those of `PEFTHelper.validate_legal`, `LoRAModel.from_local_checkpoint`,
`LoRAAdapterNotFoundError` and `LoRAModelRunnerMixin`, which reach the client behind
"Call to add_lora method failed: ".
"""

from __future__ import annotations

import re

from providers.errors import InvalidSettings
from providers.serving.engines import round_rank

_RANK = re.compile(r"LoRA rank (\d+) is greater than max_lora_rank (\d+)")
_LAYERS = re.compile(r"expected target modules in (\{.*?\}) but received", re.DOTALL)


def find_remedy(refusal: str, path: str) -> str | None:
    """How to make a server take the adapter at `path`, its own path; None for unknown words.

    >>> find_remedy("LoRA rank 24 is greater than max_lora_rank 16.", "/models/a")
    'start the server with --max-lora-rank 32, or set finetune.lora_rank = 16 or less'
    """
    if rank := _RANK.search(refusal):
        asked, most = map(int, rank.groups())
        fewer = f"set finetune.lora_rank = {most} or less"
        # Memory is reserved for some ranks only, and others are no value of the flag.
        try:
            return f"start the server with --max-lora-rank {round_rank(asked)}, or {fewer}"
        except InvalidSettings:
            return fewer
    if layers := _LAYERS.search(refusal):
        return f"name layers that it adapts in finetune.target_modules: {layers[1]}"
    if "No adapter found for" in refusal:
        return (
            f"it does not see the folder {path}, where the adapter lies for this process: let it "
            "see the run's folder, and set serving.path_map if that has another path there"
        )
    return None

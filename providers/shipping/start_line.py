"""The command that serves a base model with exported adapters.

https://docs.vllm.ai/en/latest/features/lora/
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from providers.serving.engines import round_rank

START_SCRIPT = "vllm.sh"


def write_start_script(base: str, adapters: Mapping[str, str], rank: int) -> str:
    """A shell script that serves `base` with all `adapters` (name: folder beside the script).

    A request names an adapter as its model. Raises `InvalidSettings` as `round_rank` does.
    """
    folders = " ".join(
        f'{shlex.quote(name)}="$here"/{shlex.quote(path)}' for name, path in adapters.items()
    )
    # Without --generation-config the server would apply the base's own sampling to every request.
    return (
        "#!/bin/sh\n"
        "# Serves the base model with all adapters of this folder: ask for one by its name as the\n"
        f"# model. Names: {', '.join(adapters)}. More arguments go to the server.\n"
        'here=$(cd "$(dirname "$0")" && pwd)\n'
        f"exec vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {round_rank(rank)} \\\n"
        f"  --max-loras {len(adapters)} --generation-config vllm \\\n"
        f'  --lora-modules {folders} "$@"\n'
    )

"""GGUF files, by the converter of llama.cpp.

The converter is a script in llama.cpp's own repository, `convert_hf_to_gguf.py`, and no package. It
runs in a process of its own: https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from providers.errors import InvalidSettings, TrainingFailed

GgufType = Literal["f32", "f16", "bf16"]

SCRIPT = "convert_hf_to_gguf.py"
FOLDER_VARIABLE = "LLAMA_CPP_DIR"
_NAMES = (SCRIPT, "convert-hf-to-gguf", "convert-hf-to-gguf.py")
_REMEDY = (
    "install it with `git clone https://github.com/ggml-org/llama.cpp` and `pip install -r "
    f"llama.cpp/requirements/requirements-convert_hf_to_gguf.txt`, and set {FOLDER_VARIABLE} to "
    "that folder; or export --model merged, which the converter reads on another machine"
)
_SHOWN = 12


def find_converter(environment: Mapping[str, str]) -> list[str]:
    """The words that start the converter: from the folder in LLAMA_CPP_DIR, else from PATH.

    Raises `InvalidSettings` with what to install if there is none.
    """
    if named := environment.get(FOLDER_VARIABLE):
        script = Path(named).expanduser() / SCRIPT
        if not script.is_file():
            raise InvalidSettings(f"{FOLDER_VARIABLE} = {named!r} has no {SCRIPT}; {_REMEDY}")
        return [_find_python(script.parent), str(script)]
    for name in _NAMES:
        if found := shutil.which(name, path=environment.get("PATH")):
            return [found]
    raise InvalidSettings(
        f"GGUF files are written by llama.cpp's converter, not found here; {_REMEDY}"
    )


def read_type(model: Path) -> GgufType:
    """The type that keeps the weights of a model folder as they are."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    # Models of images and texts say it of their text part.
    stated = config.get("dtype") or config.get("torch_dtype")
    stated = stated or config.get("text_config", {}).get("dtype")
    kinds: dict[str, GgufType] = {"bfloat16": "bf16", "float16": "f16"}
    return kinds.get(str(stated), "f32")


def convert_to_gguf(command: list[str], model: Path, out: Path, kind: GgufType) -> None:
    """Convert the model folder `model` to the file `out`, with weights of type `kind`.

    Raises `TrainingFailed` with the converter's last words if it does not make the file.
    """
    words = [*command, str(model), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not out.is_file():
        last = "\n  ".join(done.stdout.strip().splitlines()[-_SHOWN:])
        raise TrainingFailed(
            f"the converter ended with status {done.returncode} and made no {out.name}; its last "
            f"words:\n  {last}\na package that it lacks is installed into its own Python "
            f"({words[0]}); if it does not know the model's architecture or tokenizer, a newer "
            "llama.cpp may; else export --model merged"
        )


def _find_python(folder: Path) -> str:
    """The environment beside the script if it has one: its packages are not those of this one."""
    for name in (".venv", "venv"):
        python = folder / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if python.is_file():
            return str(python)
    return sys.executable

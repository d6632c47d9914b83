"""Checks of a downloaded model's files before any library reads them.

A GGUF file may claim 2^60 entries, which keeps a reader busy forever, and a chat template is a
program that may never end. These checks find both within seconds.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from providers.errors import InvalidSettings

# The value types of a GGUF header and their bytes, after
# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Strings and arrays have own lengths.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_DEEPEST, _MOST_DIMENSIONS = 4, 8
# A template gets so much processor time and memory for its trial. The wall clock only bounds a
# trial that sleeps: a busy machine may take long to start the process.
CPU_S = 4
_WALL_S = 90
_MEMORY_BYTES = 2 << 30


def check_gguf_header(path: Path) -> None:
    """Raise ValueError if the file claims more than it holds, OSError if it is unreadable."""
    with path.open("rb") as file:
        reader = _HeaderReader(file, os.fstat(file.fileno()).st_size)
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        # A big-endian file has its version in the upper half.
        version = reader.read_number("I")
        if version & 0xFFFF == 0:
            reader.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"it has version {version} of the format; only 2 and 3 can be read")
        tensors, entries = reader.read_number("Q"), reader.read_number("Q")
        reader.expect(entries, 12, "entries")
        for _ in range(entries):
            reader.skip(reader.read_number("Q"), "a key")
            reader.skip_value(reader.read_number("I"), 0)
        reader.expect(tensors, 24, "tensors")
        for _ in range(tensors):
            reader.skip(reader.read_number("Q"), "a tensor's name")
            dimensions = reader.read_number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            reader.skip(8 * dimensions + 12, "a tensor's shape")


@dataclass(slots=True)
class _HeaderReader:
    """Walks a header value by value; every count must fit into the rest of the file."""

    file: BinaryIO
    size: int
    order: str = "<"

    def read_number(self, kind: str) -> int:
        """The next number, of a format letter of `struct`."""
        content = self.file.read(struct.calcsize(f"<{kind}"))
        try:
            return int(struct.unpack(f"{self.order}{kind}", content)[0])
        except struct.error:
            raise ValueError("it ends within its header") from None

    def expect(self, count: int, each: int, what: str) -> None:
        """Raise ValueError if `count` things of at least `each` bytes do not fit into the rest."""
        left = self.size - self.file.tell()
        if count * each > left:
            raise ValueError(f"it claims {count} {what}, and has {left} bytes left for them")

    def skip(self, length: int, what: str) -> None:
        self.expect(length, 1, f"bytes of {what}")
        self.file.seek(length, os.SEEK_CUR)

    def skip_value(self, kind: int, depth: int) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind], "a value")
        elif kind == _STRING:
            self.skip(self.read_number("Q"), "a text")
        elif kind != _ARRAY or depth == _DEEPEST:
            raise ValueError(f"a value of the unknown kind {kind}, or arrays in arrays in arrays")
        else:
            self._skip_array(depth)

    def _skip_array(self, depth: int) -> None:
        kind, length = self.read_number("I"), self.read_number("Q")
        if kind in _SIZES:
            self.skip(_SIZES[kind] * length, "a list")
            return
        self.expect(length, 8, "list items")
        for _ in range(length):
            self.skip_value(kind, depth + 1)


# Nested loops over large ranges pass Jinja's sandbox, hence the limits of the process. Other errors
# of a template are reported when it is used.
_TRIAL_PROGRAM = """
import json, re, resource, sys
import jinja2, jinja2.ext, jinja2.sandbox
cpu, memory = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
text = re.sub(r"{%-?\\s*(end)?generation\\s*-?%}", "", json.load(sys.stdin))
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = lambda value, **_: json.dumps(value)
environment.globals["strftime_now"] = lambda form: form
said = [("user", "Hello"), ("assistant", "Hi"), ("user", "What is 2+2?")]
messages = [{"role": role, "content": content} for role, content in said]
try:
    template = environment.from_string(text)
    for shown in (messages, messages[:1]):
        for chunk in template.stream(
            messages=shown, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        ):
            pass
except MemoryError:
    sys.exit(9)
except Exception:
    pass
"""


@lru_cache(maxsize=64)
def try_template(template: str, origin: str) -> None:
    """Raise `InvalidSettings` if the chat template of `origin` does not end within its limits.

    ```python
    try_template("{% for message in messages %}{{ message.content }}{% endfor %}", "'./my-model'")
    ```
    """
    command = [sys.executable, "-I", "-c", _TRIAL_PROGRAM, str(CPU_S), str(_MEMORY_BYTES)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(template).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_S,
            check=False,
        )
        # Exit status 1 is an error of Python's own, such as a system without `resource`.
        ended = done.returncode in (0, 1)
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise InvalidSettings(
            f"the chat template of {origin} does not end within {CPU_S} s and "
            f"{_MEMORY_BYTES >> 30} GB for three short messages; replace it by one of a source you "
            "trust"
        )

"""The trial of a chat template, which may never end, before any library renders it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache

from providers.errors import InvalidSettings

# A template gets so much processor time and memory for its trial. The wall clock only bounds a
# trial that sleeps: a busy machine may take long to start the process.
CPU_S = 4
_WALL_S = 90
_MEMORY_BYTES = 2 << 30


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

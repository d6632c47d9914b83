"""A chat template is a program: it is tried in a process of its own before a run depends on it.

The trial has a limit of processor time and of memory, so that a template that never ends (nested
loops over large ranges pass Jinja's sandbox) is named instead of waited for. What else a template
may get wrong is told where it is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache

from providers.errors import InvalidSettings

CPU_S = 4
_WALL_S = 90
_MEMORY = 2 << 30
_CODE = """
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
    """Raise `InvalidSettings` where `template`, which is from `origin`, does not come to an end."""
    command = [sys.executable, "-I", "-c", _CODE, str(CPU_S), str(_MEMORY)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(template).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_S,
            check=False,
        )
        ended = done.returncode in (0, 1)
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise InvalidSettings(
            f"the chat template of {origin} does not come to an end within {CPU_S} s and "
            f"{_MEMORY >> 30} GB for three short messages; replace it by one of a source you trust"
        )

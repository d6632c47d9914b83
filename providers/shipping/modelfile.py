"""A Modelfile, by which Ollama takes a GGUF file: https://docs.ollama.com/modelfile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from providers.shipping.turns import TurnFormat

_NO_TEMPLATE = (
    "# The model's chat template does more than put texts around messages, so it is not written\n"
    "# here: Ollama takes the one in the GGUF file if it knows it. Compare its prompts before you\n"
    "# rely on its answers.\n"
)


# Its own defaults are others (top_k 40, repeat_penalty 1.1), so every value is written.
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "num_predict",
}


def write_modelfile(
    weights: str,
    turns: TurnFormat | None,
    sampling: Mapping[str, object],
    stops: Sequence[str] = (),
) -> str:
    """The Modelfile for the GGUF file `weights` beside it.

    `turns` is the format of the chat template, None if it has no such format; `sampling` has the
    values of `Sampling` by name; `stops` end an answer.
    """
    lines = ["# ollama create NAME -f THIS_FILE\n", f"FROM ./{weights}\n"]
    lines += [
        f"PARAMETER {theirs} {sampling[ours]}\n"
        for ours, theirs in _PARAMETERS.items()
        if sampling.get(ours) is not None
    ]
    lines += [f"PARAMETER stop {_quote(stop)}\n" for stop in stops]
    lines.append(_NO_TEMPLATE if turns is None else _write_template(turns))
    return "".join(lines)


def _write_template(turns: TurnFormat) -> str:
    """The template in Go's language, in which the messages are a list of Role and Content."""
    # Every action is written without trimming, since spaces and line ends are part of the prompt.
    branches = [
        f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}'
        f"{_escape(before)}{{{{ .Content }}}}{_escape(after)}"
        for number, (role, (before, after)) in enumerate(turns.around.items())
    ]
    loop = f"{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}"
    default = f"{{{{ if not .System }}}}{_escape(turns.default)}{{{{ end }}}}" * bool(turns.default)
    return f'TEMPLATE """{_escape(turns.start)}{default}{loop}{_escape(turns.ask)}"""\n'


def _escape(text: str) -> str:
    """Text that Go's template engine leaves as it is; line ends stay line ends."""
    # In an action, a raw string holds what would open an action or end the Modelfile's quotes.
    return text.replace("{{", "{{ `{{` }}").replace('"""', '{{ `"""` }}')


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

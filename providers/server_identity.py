"""What a server of answers is, as far as it tells: what a later start of a run is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A running server; None is what it does not tell.

    `model` is where it has the base from, `context_tokens` what prompt and answer may have
    together. `system_fingerprint` comes with answers, and changes with the server's configuration.
    """

    engine: str
    version: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    system_fingerprint: str | None = None

    def describe(self) -> dict[str, object]:
        """What is known, by name, as it is stored with a run."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        """In words, for the user.

        >>> str(ServerIdentity("vllm", "0.32.0", "org/base", 4096))
        'vllm 0.32.0 with org/base, 4096 tokens of context'
        """
        named = self.engine if self.version is None else f"{self.engine} {self.version}"
        facts = [
            f"{named} with {self.model}" if self.model else named,
            f"{self.context_tokens} tokens of context" if self.context_tokens else "",
            f"{self.dtype}" if self.dtype else "",
            f"quantized by {self.quantization}" if self.quantization else "",
            f"fingerprint {self.system_fingerprint}" if self.system_fingerprint else "",
        ]
        return ", ".join(fact for fact in facts if fact)

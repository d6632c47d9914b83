"""The adapters of one base model, each applied by the bank or by PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from providers.errors import Unsupported
from providers.local.adapters import AdapterBank
from providers.local.peft_adapters import PeftAdapters, read_signature
from providers.local.rows import find_spans


class AdapterStore:
    """Loads adapters and applies them to the rows of a pass.

    ```python
    store = AdapterStore(model)
    store.load("agent1", Path("models/agent1"))
    with store.apply(["agent1", "agent1", None], rows=3):
        model(input_ids)
    ```
    """

    def __init__(self, model: Any) -> None:
        self._bank = AdapterBank(model)
        self._peft = PeftAdapters(model)
        self._signatures: dict[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names the adapters were loaded under."""
        return self._bank.names | self._peft.names

    def get_signature(self, name: str) -> str:
        """The configuration of a loaded adapter; see `peft_adapters.read_signature`."""
        return self._signatures[name]

    def load(self, name: str, folder: Path, *, by_peft: bool = False) -> None:
        """Read an adapter folder; PEFT gets what the bank cannot apply, and all if `by_peft`.

        Raises `ModelNotFound` if there is none, and `Unsupported` if nothing can apply it.
        """
        if name in self.names:
            return
        self._signatures[name] = read_signature(folder)
        if not by_peft:
            try:
                self._bank.load(name, folder)
                return
            except Unsupported:
                # PEFT says what is wrong with an adapter that it cannot apply either.
                pass
        self._peft.load(name, folder)
        with self._peft.apply(name):
            pass

    def keep(self, names: frozenset[str]) -> None:
        """Forget all adapters but these."""
        self._bank.keep(names)
        self._peft.keep(names)

    def forget(self, prefix: str) -> None:
        """Forget the adapters whose names begin like this."""
        self.keep(frozenset(name for name in self.names if not name.startswith(prefix)))

    def find_group(self, name: str | None) -> str | None:
        """Rows of one group may share a pass: an adapter of PEFT's is a group of its own."""
        return name if name in self._peft.names else None

    @contextmanager
    def apply(self, adapters: Sequence[str | None], rows: int) -> Iterator[None]:
        """Apply each row's adapter in a pass of `rows` rows; those beyond `adapters` have none.

        All rows are of one group, and neighbors where they have one adapter. For the bank `rows`,
        or else the number of tokens of each row, is a multiple of `adapters.ROW_MULTIPLE`.
        """
        group = self.find_group(next(iter(adapters), None))
        if group is not None:
            if set(adapters) != {group}:
                raise ValueError(f"PEFT applies one adapter at a time, not {set(adapters)}")
            with self._peft.apply(group):
                yield
            return
        spans = find_spans(adapters)
        if spans:
            # Layers of PEFT's around the bank's would only cost time.
            self._peft.detach()
        with self._bank.apply(spans, rows):
            yield

    def detach(self) -> None:
        """Take PEFT's layers out of the model, so that it can be trained."""
        self._peft.detach()

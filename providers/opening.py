"""What is done before a model's first answer, told to whoever waits at a terminal.

A model in this process is read, unpacked and tried, which takes up to minutes the first time. The
steps are told from whichever thread does them; without a listener they are told to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, slots=True)
class OpeningStep:
    """Step `number` of `total`, from 1, of what `model` needs before it answers or is trained."""

    model: str
    text: str
    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.model}: {self.text} (step {self.number} of {self.total})"


OpeningListener = Callable[[OpeningStep | None], None]
"""Takes each step as it begins, and None once the last of them has ended."""
BeginStep = Callable[[str], None]
_listeners: list[OpeningListener] = []
_telling = Lock()


@contextmanager
def listen_to_openings(listener: OpeningListener) -> Iterator[None]:
    """Let `listener` have the steps of all models that are opened in the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def tell_opening(model: str, total: int) -> Iterator[BeginStep]:
    """A function that says which step begins; `total` is how many there should be.

    ```python
    with tell_opening("smollm2.gguf", total=2) as begin:
        begin("reading the tokenizer")
        begin("reading the weights")
    ```
    """
    number = 0

    def begin(text: str) -> None:
        nonlocal number
        number += 1
        _tell(OpeningStep(model, text, number, max(number, total)))

    try:
        yield begin
    finally:
        if number:
            _tell(None)


def _tell(step: OpeningStep | None) -> None:
    # One at a time: two models may be opened by two threads. A display may end meanwhile.
    with _telling:
        for listener in tuple(_listeners):
            listener(step)

"""What passes between a run and its training workers: JSON objects, one on a row.

This module does not import torch.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Any

from providers.types import Example, FinetuneSpec, Hyperparameters, Message, ModelRef

_CHUNK = 1 << 16


class JsonLine:
    """One end of a socket that carries JSON objects. Any thread may send; one may receive.

    ```python
    near, far = socket.socketpair()
    JsonLine(near).send({"ready": True})
    JsonLine(far).receive()  # {"ready": True}
    ```
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._received = bytearray()
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, object]) -> None:
        """Raises `OSError` if the other end is gone."""
        with self._sending:
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next object, None after `timeout_s`; raises `EOFError` if the other end is gone."""
        while (end := self._received.find(b"\n")) < 0:
            if not wait([self._end], timeout_s):
                return None
            try:
                chunk = self._end.recv(_CHUNK)
            except OSError as error:
                raise EOFError(str(error)) from error
            if not chunk:
                raise EOFError("the other end is closed")
            self._received += chunk
        row = bytes(self._received[:end])
        del self._received[: end + 1]
        return dict(json.loads(row))

    def close(self) -> None:
        self._end.close()


def write_spec(spec: FinetuneSpec) -> dict[str, Any]:
    """The spec as JSON has it, with its digest."""
    return {
        "name": spec.name,
        "start": asdict(spec.start),
        "examples": [asdict(example) for example in spec.examples],
        "dataset_sha256": spec.dataset_sha256,
        "hyperparameters": spec.hyperparameters.facts,
        "seed": spec.seed,
        "metadata": dict(spec.metadata),
        "validation": [asdict(example) for example in spec.validation],
        "validation_sha256": spec.validation_sha256,
        "digest": spec.digest,
    }


def read_spec(row: Mapping[str, Any]) -> FinetuneSpec:
    """The spec that `write_spec` wrote; raises `ValueError` if it is not the same job."""
    facts = dict(row)
    digest = facts.pop("digest")
    facts["start"] = ModelRef(**facts["start"])
    facts["hyperparameters"] = Hyperparameters.from_facts(facts["hyperparameters"])
    for name in ("examples", "validation"):
        facts[name] = tuple(map(_read_example, facts[name]))
    spec = FinetuneSpec(**facts)
    if spec.digest != digest:
        raise ValueError(f"the job {spec.name!r} was changed on the way to its worker")
    return spec


def _read_example(row: Mapping[str, Any]) -> Example:
    messages = tuple(Message(**message) for message in row["messages"])
    return Example(**{**row, "messages": messages, "loss_on": tuple(row["loss_on"])})

"""Batch prediction jobs of the stand-in `gemini_server`: lines in, lines out, in another order.

What can be told: `batch_s`, how long jobs take; `line_errors` {part of a line: [problems]}, one for
each time the line comes, a problem being a "status" of Google's or "" for no line at all;
`failure`, the message with which every job fails; `ends`, the state in which jobs end.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class BatchJobs:
    """The jobs by name. `answer` answers one request to a model, `read` and `write` reach the
    bucket by URI."""

    answer: Callable[[str, Json], Json]
    read: Callable[[str], list[Json]]
    write: Callable[[str, bytes], None]
    jobs: dict[str, Json] = field(default_factory=dict)
    batch_s: float = 0.0
    line_errors: dict[str, list[str]] = field(default_factory=dict)
    failure: str | None = None
    ends: str = "JOB_STATE_SUCCEEDED"

    def create(self, parent: str, body: Json) -> Json:
        """A new job, if everything it names is as Google wants it."""
        assert set(body) == {"displayName", "model", "inputConfig", "outputConfig"}
        [uri] = body["inputConfig"]["gcsSource"]["uris"]
        assert body["inputConfig"]["instancesFormat"] == "jsonl"
        assert body["outputConfig"]["predictionsFormat"] == "jsonl"
        for line in self.read(uri):
            assert set(line) == {"request"}
            for key, value in line["request"]["labels"].items():
                assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key)
                assert re.fullmatch(r"[a-z0-9_-]{0,63}", value)
        name = f"{parent}/batchPredictionJobs/{len(self.jobs) + 1}"
        self.jobs[name] = {**body, "name": name, "begun": time.monotonic()}
        return self.show(name)

    def show(self, name: str) -> Json:
        """A job as it is now: time alone carries it on."""
        job = self.jobs[name]
        shown = {key: value for key, value in job.items() if key != "begun"}
        if "state" not in job and time.monotonic() - job["begun"] < self.batch_s:
            return {**shown, "state": "JOB_STATE_RUNNING"}
        if "state" not in job:
            job |= self._end(job)
        return {key: value for key, value in job.items() if key != "begun"}

    def cancel(self, name: str) -> Json:
        """Stop a job before it has answered anything."""
        self.jobs[name].setdefault("state", "JOB_STATE_CANCELLED")
        return {}

    def _end(self, job: Json) -> Json:
        if self.failure is not None:
            return {"state": "JOB_STATE_FAILED", "error": {"code": 3, "message": self.failure}}
        lines = self.read(job["inputConfig"]["gcsSource"]["uris"][0])
        # Neither in the order of the requests, nor in one file.
        found = [out for line in reversed(lines) if (out := self._answer_line(job["model"], line))]
        number = job["name"].rsplit("/", 1)[1]
        prefix = job["outputConfig"]["gcsDestination"]["outputUriPrefix"]
        folder = f"{prefix}/prediction-model-{number}"
        half = len(found) // 2
        for part, chosen in (("001", found[:half]), ("002", found[half:])):
            if chosen:
                text = "".join(json.dumps(line) + "\n" for line in chosen)
                self.write(f"{folder}/predictions_{part}.jsonl", text.encode())
        good = sum(not line["status"] for line in found)
        return {
            "state": self.ends,
            "outputInfo": {"gcsOutputDirectory": folder},
            "completionStats": {"successfulCount": str(good)},
        }

    def _answer_line(self, model: str, line: Json) -> Json | None:
        text = json.dumps(line)
        wishes = next((w for part, w in self.line_errors.items() if part in text and w), None)
        problem = wishes.pop(0) if wishes else None
        if problem == "":
            return None
        response = {} if problem else self.answer(model, line["request"])
        return {"status": problem or "", "processed_time": "…", **line, "response": response}

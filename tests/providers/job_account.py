"""The state behind `job_server`: one account's files, fine-tuning jobs, batches and models."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.providers.azure_account import Management

BASE = "gpt-4o-mini"
Json = dict[str, Any]
NO_ENDS = {"first_id": "", "last_id": ""}
AS_USUAL: Json = {"job_s": 0.2, "steps": 4, "page": 100, "base": BASE}


class Refused(Exception):
    """Answer with an error."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
        self.body = {"error": error}


class Dropped(Exception):
    """Close the connection without an answer."""


@dataclass
class Account:
    """Everything the server knows. `told` holds the wishes of the test."""

    files: dict[str, Json] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    batches: dict[str, Json] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    told: Json = field(default_factory=lambda: dict(AS_USUAL))
    log: list[Json] = field(default_factory=list)
    azure: Management = field(default_factory=Management)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self, kind: str) -> None:
        """Fail here if the test wants it: told[kind] is a list of "drop", statuses or null."""
        wishes = self.told.get(kind) or []
        self.fail(wishes.pop(0) if wishes else None, kind)

    def listed(self, items: dict[str, Json]) -> dict[str, Json]:
        """What a list shows of `items`: nothing while it lags."""
        if items and self.told.get("lag", 0) > 0:
            self.told["lag"] -= 1
            return {}
        return items

    def fail(self, wish: Any, kind: str) -> None:
        """Fail as wished: "drop", a status, or a whole refusal; null does not."""
        if wish == "drop":
            raise Dropped
        if isinstance(wish, int):
            raise Refused(wish, f"told to fail: {kind}", code=str(wish))
        if isinstance(wish, dict):
            raise Refused(wish["status"], wish["message"], wish.get("code"), wish.get("param"))

    def upload(self, name: str, content: bytes, purpose: str) -> Json:
        file_id = f"file-{next(self.numbers):06d}"
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": "data.jsonl" if self.told.get("drop_names") else name,
            "purpose": purpose,
            "status": self.told.get("file_status", "processed"),
        }
        self.contents[file_id] = content
        self.now("uploaded")
        return self.files[file_id]

    def create_job(self, body: Json) -> Json:
        self.now("create")
        if self.told.get("closed"):
            raise Refused(403, "fine-tuning is not available to this organization", "closed")
        if body["training_file"] not in self.files:
            raise Refused(400, "no such file", "invalid_file", "training_file")
        self.model(body["model"])
        job_id = f"ftjob-{next(self.numbers):06d}"
        method = body["method"]
        lines = self.contents[body["training_file"]].splitlines()
        pairs = [b'"non_preferred_output"' in line for line in lines]
        if (all if method["type"] == "dpo" else any)(pairs) != (method["type"] == "dpo"):
            raise Refused(400, "invalid training_file", "invalid_file_format", "training_file")
        self.jobs[job_id] = {
            "id": job_id,
            "object": "fine_tuning.job",
            "model": body["model"],
            "created_at": int(time.time()),
            "started": time.time(),
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "hyperparameters": method[method["type"]]["hyperparameters"],
            "method": body["method"],
            "seed": body.get("seed", 0),
            "metadata": None if self.told.get("drop_metadata") else body.get("metadata"),
            "suffix": body.get("suffix"),
            "organization_id": "org-test",
            "result_files": [],
            "cancelled": False,
        }
        self.now("created")
        return self.job(job_id)

    def model(self, name: str) -> Json:
        """A model that can be asked."""
        tuned = {self.job(job_id)["fine_tuned_model"] for job_id in self.jobs}
        if name != self.told["base"] and (name not in tuned or name in self.deleted):
            raise Refused(404, f"The model `{name}` does not exist", "model_not_found", "model")
        if name in tuned and self.told.get("loading", 0) > 0:
            self.told["loading"] -= 1
            raise Refused(404, f"The model `{name}` does not exist", "model_not_found", "model")
        return {"id": name, "object": "model", "created": 1, "owned_by": "test"}

    def delete_model(self, name: str) -> Json:
        """Delete a tuned model; the base cannot be deleted."""
        self.model(name)
        if name == self.told["base"]:
            raise Refused(403, "You have insufficient permissions", "forbidden", "model")
        self.deleted.append(name)
        return {"id": name, "object": "model", "deleted": True}

    def ended_at(self) -> int:
        return int(time.time() - self.told.get("ended_ago_s", 0))

    def job(self, job_id: str) -> Json:
        """The job as it is now: time alone carries it on."""
        if job_id not in self.jobs:
            raise Refused(404, f"Could not find fine tune: {job_id}", "fine_tune_not_found")
        job = dict(self.jobs[job_id])
        share = (time.time() - job.pop("started")) / max(1e-9, self.told["job_s"])
        suffix, cancelled = job.pop("suffix"), job.pop("cancelled")
        reason = next(
            (r for p, r in self.told.get("fail", {}).items() if re.search(p, suffix)), None
        )
        ended = share >= 1
        if cancelled:
            status = "cancelled"
        elif ended:
            status = "failed" if reason else "succeeded"
        else:
            status = "validating_files" if share < 0.1 else "running"
            status = self.told.get("status_while_running", status)
        succeeded = status == "succeeded"
        healthy: Json | None = None if self.told.get("by_the_book") else {}
        mark = hashlib.sha256(suffix.encode()).hexdigest()[:8]
        job |= {
            "status": status,
            "error": reason if status == "failed" else healthy,
            "finished_at": self.ended_at() if ended else None,
            "fine_tuned_model": f"ft:{BASE}:org::{mark}" if succeeded else None,
            "trained_tokens": self._tokens(job) if succeeded else None,
            "estimated_finish": None,
        }
        if not self.told.get("drop_suffix"):
            job["user_provided_suffix"] = suffix
            if succeeded:
                job["fine_tuned_model"] = f"ft:{BASE}:org:{suffix}:{mark}"
        return job

    def _tokens(self, job: Json) -> int:
        epochs = job["hyperparameters"].get("n_epochs", 1)
        return len(self.contents[job["training_file"]]) // 4 * int(epochs)

    def steps(self, job_id: str) -> int:
        share = (time.time() - self.jobs[job_id]["started"]) / max(1e-9, self.told["job_s"])
        return max(0, min(self.told["steps"], int(share * self.told["steps"])))

    def events(self, job_id: str) -> list[Json]:
        """Newest first, as the real one."""
        job, total = self.job(job_id), self.told["steps"]
        told = [("message", "Created fine-tuning job", {})]
        for step in range(1, self.steps(job_id) + 1):
            loss = round(1 / step, 4)
            data = {"step": step, "total_steps": total, "train_loss": loss}
            told.append(("metrics", f"Step {step}/{total}: training loss={loss:.2f}", data))
        if job["fine_tuned_model"]:
            told.append(("message", f"New fine-tuned model created: {job['fine_tuned_model']}", {}))
        events = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job_id}-{number}",
                "created_at": job["created_at"] + number,
                "level": "info",
                "message": message,
                "data": data,
                "type": kind,
            }
            for number, (kind, message, data) in enumerate(told)
        ]
        return events[::-1]

    def checkpoints(self, job_id: str) -> list[Json]:
        job, total = self.job(job_id), self.told["steps"]
        if job["status"] != "succeeded":
            return []
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt-{job_id}-{step}",
                "created_at": job["created_at"],
                "fine_tuned_model_checkpoint": f"{job['fine_tuned_model']}:ckpt-step-{step}",
                "metrics": {"step": step, "train_loss": round(1 / step, 4)},
                "fine_tuning_job_id": job_id,
                "step_number": step,
            }
            for step in (total, max(1, total // 2))
        ]

    def chat(self, body: Json) -> Json:
        self.model(
            self.azure.find(self, body["model"]) if self.told.get("azure") else body["model"]
        )
        if not body["messages"]:
            raise Refused(400, "messages is too short", "array_below_min_length", "messages")
        text = answer(body)
        prompt = sum(len(m["content"].split()) for m in body["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        scored = {"prompt_logprobs": scores(body)} if "prompt_logprobs" in body else {}
        return {
            **scored,
            "id": f"chatcmpl-{next(self.numbers)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def create_batch(self, body: Json) -> Json:
        self.now("create")
        batch_id = f"batch_{next(self.numbers):06d}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "metadata": None if self.told.get("drop_metadata") else body.get("metadata"),
            "created_at": int(time.time()),
            "started": time.time(),
            "status": "in_progress",
        }
        self.now("created")
        return self.batch(batch_id)

    def batch(self, batch_id: str) -> Json:
        if batch_id not in self.batches:
            raise Refused(404, f"No batch found with id '{batch_id}'")
        batch = self.batches[batch_id]
        over = time.time() - batch["started"] >= self.told["job_s"]
        if batch["status"] == "in_progress" and over:
            self._finish(batch)
        return {key: value for key, value in batch.items() if key != "started"}

    def _finish(self, batch: Json) -> None:
        wish = (self.told.get("batch_errors") or [None]).pop(0)
        if wish is not None:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [wish]}}
            return
        answers: list[Json] = []
        errors: list[Json] = []
        for number, text in enumerate(self.contents[batch["input_file_id"]].splitlines()):
            line = json.loads(text)
            result: Json = {"id": f"r{number}", "custom_id": line["custom_id"], "error": None}
            wishes = self.told.get("line_errors") or {}
            wanted = next((k for k in wishes if k in text.decode()), None)
            wish = wishes[wanted].pop(0) if wanted and wishes[wanted] else 200
            if wish == 200:
                result["response"] = {"status_code": 200, "body": self.chat(line["body"])}
                answers.append(result)
            elif wish == "expired":
                error = {"code": "batch_expired", "message": "expired before it was run"}
                errors.append(result | {"response": None, "error": error})
            else:
                body = {"error": {"message": f"status {wish}", "code": None}}
                errors.append(result | {"response": {"status_code": wish, "body": body}})
        batch["status"] = "completed"
        for key, results in (("output_file_id", answers[::-1]), ("error_file_id", errors)):
            if results:
                content = "".join(json.dumps(result) + "\n" for result in results).encode()
                batch[key] = self.upload(f"{key}.jsonl", content, "batch_output")["id"]


def answer(body: Json) -> str:
    """Arithmetic, right more often than not, decided by nothing but what was asked."""
    texts = [message["content"] for message in body["messages"]]
    asked = re.search(r"[-\d+*/ ]*\d[-+*/ ]+[-\d+*/ ]*\d", " ".join(texts))
    chance = hashlib.sha256(json.dumps([body["model"], texts, body.get("seed")]).encode()).digest()
    right = eval(asked[0]) if asked else 0  # digits and operators only
    wrong = chance[0] < (40 if body["model"].startswith("ft:") else 90)
    return f"I work it out. The answer is \\boxed{{{right + (1 + chance[1] % 2 if wrong else 0)}}}."


def scores(body: Json) -> list[Json | None]:
    """What vLLM says of a prompt, a word being a token: the first one has no probability."""
    words = [w for m in body["messages"] for w in (m["role"], *m["content"].split())]
    said: list[Json | None] = [None]
    for place, word in enumerate(words[1:], 1):
        chance = hashlib.sha256(f"{body['model']} {words[: place + 1]}".encode()).digest()[0]
        token = str(int.from_bytes(hashlib.sha256(word.encode()).digest()[:2]))
        said.append({token: {"logprob": -0.1 - chance / 64, "rank": 1}})
    return said


def page(items: list[Json], query: dict[str, list[str]], most: int) -> Json:
    """One page behind `after`."""
    after = query.get("after", [None])[0]
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    limit = min(most, int(query.get("limit", ["20"])[0]))
    chosen = items[start : start + limit]
    ends = {"first_id": chosen[0]["id"], "last_id": chosen[-1]["id"]} if chosen else NO_ENDS
    return {"object": "list", "data": chosen, "has_more": start + limit < len(items), **ends}

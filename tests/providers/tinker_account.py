"""What the stand-in of Tinker's wire remembers and does: sessions, adapters, futures, checkpoints.

Requests are read by the SDK's own types. Sessions, adapters and checkpoints are written to a
folder, so that a server that is started there again knows them; which adapters were loaded, and the
futures, it forgets.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from tinker import types
from tinker.types._pydantic_types.forward_backward_request import ForwardBackwardRequest
from tinker.types._pydantic_types.forward_request import ForwardRequest

from tests.providers.tinker_adapters import (
    AdapterEngine,
    Answer,
    hash_weights,
    read_answer,
    read_example,
    write_tensor,
)
from tests.providers.tinker_futures import Future, FutureQueue, TinkerRefused

Json = dict[str, Any]
DEFAULTS: Json = {
    "dialect": "skyrl",
    "base": "embedded",
    "slots": 32,
    "most_rank": 32,
    "session_timeout_s": 300.0,
    "remembers_requests": False,
    "step_s": 0.0,
    "pass_s": 0.0,
    "sample_s": 0.0,
}


class TinkerAccount:
    """The whole state behind one server. `told` is what `DEFAULTS` and tests say."""

    def __init__(self, folder: Path, engine: AdapterEngine | None = None) -> None:
        self.folder = folder
        self.engine = engine or AdapterEngine()
        self.lock = threading.RLock()
        self.told: Json = dict(DEFAULTS)
        self.log: list[Json] = []
        self.steps: list[Json] = []
        self.most_slots = 0
        self.early_steps = 0
        self._passing: Counter[str] = Counter()
        self._heartbeats: dict[str, float] = {}
        self._requests: dict[tuple[str, int], str] = {}
        self.futures = FutureQueue(self._sample)
        kept = folder / "account.json"
        empty: Json = {"counter": 0, "sessions": {}, "models": {}, "samplers": {}, "saved": {}}
        self._kept: Json = json.loads(kept.read_text()) if kept.exists() else empty

    @property
    def skyrl(self) -> bool:
        return bool(self.told["dialect"] == "skyrl")

    def restart(self) -> None:
        """Forget what a new process would not know."""
        self.engine.clear()
        self.futures.forget()
        self._requests.clear()

    def expire(self, model_id: str | None) -> None:
        """Unload an adapter, or all of them, as after their sessions' time-out."""
        for name in [model_id] if model_id else list(self.engine.adapters):
            self._unload(name)

    def evict(self, model_id: str | None) -> None:
        """Forget an adapter, or all of them; their checkpoints stay."""
        for name in [model_id] if model_id else list(self._kept["models"]):
            self._unload(name)
            self._kept["models"][name]["evicted"] = True
        self._keep()

    def describe(self) -> Json:
        """Everything a test may want to compare."""
        saved = {
            path: entry
            | {
                "history": json.loads(self._path(path).with_suffix(".history").read_text()),
                "sha256": hash_weights(self._path(path)),
            }
            for path, entry in self._kept["saved"].items()
            if entry["type"] == "sampler" and entry["time"]
        }
        states = {p: e for p, e in self._kept["saved"].items() if e["type"] == "training"}
        slots = {"in_use": sorted(self.engine.adapters), "most": self.most_slots}
        return {"models": self._kept["models"], "saved": saved, "states": states} | {
            "slots": slots,
            "steps": self.steps,
            "early_steps": self.early_steps,
        }

    # Sessions

    def create_session(self, body: Json) -> Json:
        types.CreateSessionRequest.model_validate(body)
        session_id = self._name("session")
        self._kept["sessions"][session_id] = {"sdk": body["sdk_version"]}
        self._heartbeats[session_id] = time.monotonic()
        self._keep()
        return {"type": "create_session", "session_id": session_id}

    def beat(self, body: Json) -> Json:
        session_id = types.SessionHeartbeatRequest.model_validate(body).session_id
        if session_id not in self._kept["sessions"]:
            raise TinkerRefused(404, "Session not found")
        self._heartbeats[session_id] = time.monotonic()
        return {"type": "session_heartbeat"}

    def create_sampler(self, body: Json) -> Json:
        asked = types.CreateSamplingSessionRequest.model_validate(body)
        if asked.session_id not in self._kept["sessions"]:
            raise TinkerRefused(404, "Session not found")
        if (asked.base_model is None) == (asked.model_path is None):
            raise TinkerRefused(400, "Exactly one of base_model or model_path must be provided")
        sampler_id = self._name("sampling")
        self._kept["samplers"][sampler_id] = {
            "base_model": asked.base_model,
            "model_path": asked.model_path,
        }
        self._keep()
        return {"type": "create_sampling_session", "sampling_session_id": sampler_id}

    # Adapters in training

    def create_model(self, body: Json) -> Json:
        asked = types.CreateModelRequest.model_validate(body)
        if asked.session_id not in self._kept["sessions"]:
            raise TinkerRefused(404, "Session not found")
        assert asked.lora_config is not None
        rank, seed = asked.lora_config.rank, asked.lora_config.seed
        model_id = self._name("model")
        facts = {"session": asked.session_id, "base": asked.base_model, "rank": rank, "seed": seed}
        self._kept["models"][model_id] = facts
        self._keep()

        def work() -> Json:
            self._free_stale_slots()
            if asked.base_model != self.told["base"]:
                raise TinkerRefused(400, f"Engine is configured for {self.told['base']!r}")
            if len(self.engine.adapters) >= self.told["slots"]:
                most = self.told["slots"] + 1
                raise TinkerRefused(400, f"Maximum number of LoRA adapters ({most}) reached")
            if not 0 < rank <= self.told["most_rank"]:
                most = self.told["most_rank"]
                raise TinkerRefused(400, f"LoRA rank {rank} must be between 1 and {most}")
            # Without a seed every adapter begins elsewhere.
            start = int.from_bytes(os.urandom(4), "big") if seed is None else seed
            self.engine.create(model_id, rank, start)
            self.most_slots = max(self.most_slots, len(self.engine.adapters))
            return {"model_id": model_id, "type": "create_model"}

        return self._submit(work) | {"model_id": model_id}

    def unload_model(self, body: Json) -> Json:
        model_id = types.UnloadModelRequest.model_validate(body).model_id
        self._require_model(model_id)

        def work() -> Json:
            self._unload(model_id)
            return {"model_id": model_id, "type": "unload_model"}

        return self._submit(work) | {"model_id": model_id}

    def describe_model(self, body: Json) -> Json:
        model_id = types.GetInfoRequest.model_validate(body).model_id
        facts = self._require_model(model_id)
        data = {"model_name": facts["base"]}
        return {"model_id": model_id, "model_data": data, "lora_rank": facts["rank"]}

    def compute_pass(self, body: Json, *, backward: bool) -> Json:
        if backward:
            asked: Any = ForwardBackwardRequest.model_validate(body)
            given = asked.forward_backward_input
        else:
            asked = ForwardRequest.model_validate(body)
            given = asked.forward_input
        self._require_model(asked.model_id)
        if given.loss_fn not in ("cross_entropy", "importance_sampling", "cispo"):
            raise TinkerRefused(422, f"loss_fn {given.loss_fn!r} is not known here")
        bounds = given.loss_fn_config or {}
        clip = bounds.get("clip_low_threshold", 0.8), bounds.get("clip_high_threshold", 1.2)
        examples = [read_example(datum) for datum in given.data]

        self._passing[asked.model_id] += 1

        def work() -> Json:
            time.sleep(self.told["pass_s"])
            self._passing[asked.model_id] -= 1
            adapter = self._require_loaded(asked.model_id)
            computed = adapter.compute_pass(
                examples, given.loss_fn, clip, backward=backward, mean=self.skyrl
            )
            tensors = [
                {"logprobs": write_tensor(logprobs), "elementwise_loss": write_tensor(losses)}
                for logprobs, losses in computed
            ]
            return {
                "loss_fn_output_type": "scalar",
                "loss_fn_outputs": tensors,
                "metrics": {} if self.skyrl else {"loss:sum": sum(sum(one) for _, one in computed)},
            }

        return self._submit(work, (asked.model_id, asked.seq_id))

    def optim_step(self, body: Json) -> Json:
        asked = types.OptimStepRequest.model_validate(body)
        self._require_model(asked.model_id)
        self.early_steps += self._passing[asked.model_id] > 0

        def work() -> Json:
            adapter = self._require_loaded(asked.model_id)
            time.sleep(self.told["step_s"])
            norm = adapter.step(asked.adam_params, mean=self.skyrl, clip=not self.skyrl)
            step = {"model_id": asked.model_id, "number": len(adapter.history)}
            if asked.adam_params.learning_rate:
                self.steps.append(step | {"digest": adapter.history[-1]})
            return {"metrics": {"skyrl.ai/grad_norm": norm} if self.skyrl else None}

        return self._submit(work, (asked.model_id, asked.seq_id))

    # Checkpoints

    def save_state(self, body: Json) -> Json:
        asked = types.SaveWeightsRequest.model_validate(body)
        path = self._reserve(asked.model_id, asked.path, "training", overwrite=asked.overwrite)

        def work() -> Json:
            self._require_loaded(asked.model_id).save_state(self._path(path))
            self._finish(path)
            return {"path": path, "type": "save_weights"}

        return self._submit(work, (asked.model_id, asked.seq_id))

    def save_for_sampler(self, body: Json) -> Json:
        asked = types.SaveWeightsForSamplerRequest.model_validate(body)
        name = asked.path or f"ss{asked.sampling_session_seq_id}_seq{asked.seq_id}"
        path = self._reserve(asked.model_id, name, "sampler")
        sampler_id = None
        if asked.path is None:
            sampler_id = self._name("sampling")
            self._kept["samplers"][sampler_id] = {"base_model": None, "model_path": path}

        def work() -> Json:
            adapter = self._require_loaded(asked.model_id)
            adapter.save_peft(self._path(path), targets=not self.skyrl)
            self._finish(path)
            # SkyRL leaves out what kind of path it is.
            said = path.replace("/sampler_weights", "") if self.skyrl else path
            kind = "save_weights_for_sampler"
            return {"path": said if asked.path else None, "sampling_session_id": sampler_id} | {
                "type": kind
            }

        return self._submit(work, (asked.model_id, asked.seq_id))

    def load_state(self, body: Json) -> Json:
        asked = types.LoadWeightsRequest.model_validate(body)
        model_id = str(asked.model_id)
        self._require_model(model_id)
        self._require_saved(asked.path, "training")

        def work() -> Json:
            adapter = self._require_loaded(model_id)
            # SkyRL does not read `optimizer`.
            adapter.load_state(
                self._path(asked.path),
                optimizer=asked.optimizer or self.skyrl,
                keep_gradient=self.skyrl,
            )
            return {"path": asked.path, "type": "load_weights"}

        return self._submit(work, (model_id, asked.seq_id))

    def list_checkpoints(self, model_id: str | None) -> Json:
        listed = [
            {
                "checkpoint_id": entry["name"] if self.skyrl else path.split("/", 3)[3],
                "checkpoint_type": entry["type"],
                "time": entry["time"],
                "tinker_path": path,
            }
            for path, entry in self._kept["saved"].items()
            if entry["time"] and model_id in (None, entry["model_id"])
        ]
        return {"checkpoints": listed}

    def delete_checkpoint(self, model_id: str, name: str) -> Json:
        """Forget saved weights; the vendor's ids have the kind before the name."""
        path = f"tinker://{model_id}/{name}"
        if self._kept["saved"].pop(path, None) is None:
            raise TinkerRefused(404, f"there is no checkpoint {path}")
        self._keep()
        return {}

    def list_runs(self) -> Json:
        runs = [self.describe_run(model_id) for model_id in self._kept["models"]]
        cursor = {"offset": 0, "limit": len(runs), "total_count": len(runs)}
        return {"training_runs": runs, "cursor": cursor}

    def describe_run(self, model_id: str) -> Json:
        facts = self._require_model(model_id)
        run = {"training_run_id": model_id, "base_model": facts["base"], "model_owner": "default"}
        now = datetime.now(UTC).isoformat()
        return run | {"is_lora": True, "lora_rank": facts["rank"], "last_request_time": now}

    def describe_weights(self, body: Json) -> Json:
        entry = self._require_saved(body["tinker_path"], "training")
        facts = self._kept["models"][entry["model_id"]]
        return {"base_model": facts["base"], "is_lora": True, "lora_rank": facts["rank"]}

    def pack(self, model_id: str, name: str) -> bytes:
        """A sampler's checkpoint as a .tar.gz; the vendor's ids have the kind before the name."""
        path = f"tinker://{model_id}/sampler_weights/{name.removeprefix('sampler_weights/')}"
        self._require_saved(path, "sampler")
        content = BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            archive.add(self._path(path), arcname="")
        return content.getvalue()

    # Answers

    def sample(self, body: Json) -> Json:
        asked = types.SampleRequest.model_validate(body)
        source = {"base_model": asked.base_model, "model_path": asked.model_path}
        if asked.sampling_session_id is not None:
            source = self._kept["samplers"].get(asked.sampling_session_id)
            if source is None:
                raise TinkerRefused(404, "Sampling session not found")
        path = source["model_path"]
        if path is not None:
            model_id = path.removeprefix("tinker://").split("/")[0]
            path = f"tinker://{model_id}/sampler_weights/{path.split('/')[-1]}"
            self._require_model(model_id)
            self._require_saved(path, "sampler")
        elif source["base_model"] != self.told["base"]:
            raise TinkerRefused(400, f"Engine is configured for {self.told['base']!r}")
        answers = [read_answer(asked, number) for number in range(asked.num_samples)]

        def finish() -> Json:
            if path is not None and self.skyrl:
                self._require_loaded(model_id)
            sequences = [
                {
                    "stop_reason": "stop" if answer.stopped else "length",
                    "tokens": answer.tokens,
                    "logprobs": answer.logprobs,
                }
                for answer in answers
            ]
            known: list[float | None] = list(answers[0].prompt_logprobs)
            if not self.skyrl:
                known.insert(0, None)
            prompt = known if asked.prompt_logprobs else None
            return {"type": "sample", "sequences": sequences, "prompt_logprobs": prompt}

        folder = None if path is None else self._path(path)
        key = (asked.sampling_session_id or "", asked.seq_id)
        return self._submit(finish, key, answers, folder)

    def _submit(
        self,
        work: Callable[[], Json],
        key: tuple[str, int | None] = ("", None),
        answers: list[Answer] | None = None,
        folder: Path | None = None,
    ) -> Json:
        owner, number = key
        if self.told["remembers_requests"] and number is not None:
            known = self._requests.get((owner, number))
            if known is not None:
                return {"request_id": known}
        self._kept["counter"] += 1
        request_id = str(self._kept["counter"])
        if number is not None:
            self._requests[owner, number] = request_id
        self.futures.add(request_id, Future(work, answers or [], folder))
        return {"request_id": request_id}

    def _sample(self, folder: Path | None, answers: list[Answer]) -> None:
        time.sleep(self.told["sample_s"])
        self.engine.sample(folder, answers)

    # What is kept

    def _name(self, kind: str) -> str:
        self._kept["counter"] += 1
        return f"{kind}_{self._kept['counter']:08d}"

    def _keep(self) -> None:
        partial = self.folder / "account.partial"
        partial.write_text(json.dumps(self._kept))
        os.replace(partial, self.folder / "account.json")

    def _free_stale_slots(self) -> None:
        oldest = time.monotonic() - self.told["session_timeout_s"]
        for model_id in list(self.engine.adapters):
            session = self._kept["models"][model_id]["session"]
            if self._heartbeats.get(session, 0.0) < oldest:
                self._unload(model_id)

    def _unload(self, model_id: str) -> None:
        self.engine.unload(model_id, leave_gradient=self.skyrl)

    def _require_model(self, model_id: str) -> Json:
        facts: Json | None = self._kept["models"].get(model_id)
        if facts is None or facts.get("evicted"):
            raise TinkerRefused(404, "Model not found")
        return facts

    def _require_loaded(self, model_id: str) -> Any:
        if model_id not in self.engine.adapters:
            raise TinkerRefused(400, f"Model {model_id} not loaded")
        return self.engine.adapters[model_id]

    def _reserve(self, model_id: str, name: str | None, kind: str, overwrite: bool = False) -> str:
        self._require_model(model_id)
        if not name or not name.replace("-", "").replace("_", "").isalnum():
            raise TinkerRefused(422, f"path {name!r} should match '^[a-zA-Z0-9_-]+$'")
        path = (
            f"tinker://{model_id}/{'weights' if kind == 'training' else 'sampler_weights'}/{name}"
        )
        if path in self._kept["saved"] and (self.skyrl or not overwrite):
            raise TinkerRefused(409, f"Checkpoint {name!r} already exists for model {model_id!r}")
        self._kept["saved"][path] = {"model_id": model_id, "name": name, "type": kind, "time": None}
        return path

    def _finish(self, path: str) -> None:
        with self.lock:
            self._kept["saved"][path]["time"] = datetime.now(UTC).isoformat()
            self._keep()

    def _require_saved(self, path: str, kind: str) -> Json:
        entry: Json | None = self._kept["saved"].get(path)
        if entry is None or entry["type"] != kind:
            raise TinkerRefused(404, f"Checkpoint not found: {path}")
        if entry["time"] is None:
            raise TinkerRefused(425, "Checkpoint is still being created")
        return entry

    def _path(self, path: str) -> Path:
        model_id, kind, name = path.removeprefix("tinker://").split("/")
        return self.folder / model_id / kind / (f"{name}.pt" if kind == "weights" else name)

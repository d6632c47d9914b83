"""The state behind `bedrock_server`: one account's jobs, models, deployments, and chat with them.

Every request is checked against botocore's description of the service, also what botocore itself
does not check: patterns, lengths and enumerations.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import botocore.session

from tests.providers.job_account import answer

BASE = "amazon.nova-micro-v1:0"
TUNING = {
    BASE: f"{BASE}:128k",
    "amazon.nova-2-lite-v1:0": "amazon.nova-2-lite-v1:0:256k",
}
ROLE = "arn:aws:iam::123456789012:role/bedrock-tuning"
BUCKET = "society-tests"
ACCOUNT = "123456789012"
REGION = "us-east-1"
RESERVED = ("user:", "assistant:", "system:", "[eos]")
Json = dict[str, Any]
AS_USUAL: Json = {"job_s": 0.2, "deploy_s": 0.1, "steps": 4, "page": 100}
STATUS = {
    "AccessDeniedException": 403,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "ResourceNotFoundException": 404,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "UnrecognizedClientException": 403,
    "ExpiredTokenException": 403,
}


class AwsRefused(Exception):
    """Answer with an error of this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, STATUS.get(code, 400)


class AwsDropped(Exception):
    """Close the connection without an answer."""


@cache
def shapes(service: str) -> Any:
    return botocore.session.Session().get_service_model(service)


def check(service: str, operation: str, given: Json) -> None:
    """Refuse a request that the service's description does not allow."""
    _check(shapes(service).operation_model(operation).input_shape, given, operation)


def _check(shape: Any, value: Any, where: str) -> None:
    if shape.type_name == "structure":
        if shape.is_document_type:
            return
        known = {m.serialization.get("name", n): (n, m) for n, m in shape.members.items()}
        for name, inner in value.items():
            if name not in known:
                raise AwsRefused("ValidationException", f"{where}: unknown member {name}")
            _check(known[name][1], inner, f"{where}.{name}")
        if missing := [n for n in shape.required_members if n not in value]:
            raise AwsRefused("ValidationException", f"{where}: {missing} missing")
    elif shape.type_name == "list":
        for inner in value:
            _check(shape.member, inner, where)
    elif shape.type_name == "map":
        for inner in value.values():
            _check(shape.value, inner, where)
    elif shape.type_name == "string":
        pattern, most = shape.metadata.get("pattern"), shape.metadata.get("max")
        bad = (
            not isinstance(value, str)
            or (pattern and not re.fullmatch(pattern, value))
            or (most and len(value) > most)
            or (shape.enum and value not in shape.enum)
        )
        if bad:
            raise AwsRefused("ValidationException", f"{where}: {value!r} is not allowed")
    elif shape.type_name in ("integer", "float"):
        least, most = shape.metadata.get("min"), shape.metadata.get("max")
        if (least is not None and value < least) or (most is not None and value > most):
            raise AwsRefused("ValidationException", f"{where}: {value} is out of range")


@dataclass
class BedrockAccount:
    """Everything the service knows. `told` holds the wishes of the test; `read_object` and
    `write_object` reach the buckets."""

    read_object: Callable[[str], bytes | None]
    write_object: Callable[[str, bytes], None]
    jobs: dict[str, Json] = field(default_factory=dict)
    deployments: dict[str, Json] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    told: Json = field(default_factory=lambda: dict(AS_USUAL))
    log: list[Json] = field(default_factory=list)
    usage: list[tuple[bool, int, int]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, kind: str) -> None:
        """Fail here if the test wants it: told[kind] is a list of wishes, each for one request:
        null, "drop", or a code and a message."""
        wishes = self.told.get(kind) or []
        wish = wishes.pop(0) if wishes else None
        if wish == "drop":
            raise AwsDropped
        if wish:
            raise AwsRefused(*wish)

    def create_job(self, body: Json) -> Json:
        self.fail("create")
        check("bedrock", "CreateModelCustomizationJob", body)
        name, token = body["jobName"], body.get("clientRequestToken")
        for job in self.jobs.values():
            if token and job["clientRequestToken"] == token and not self.told.get("no_tokens"):
                return {"jobArn": job["jobArn"]}
        if name in self.jobs:
            raise AwsRefused("ConflictException", f"job {name} exists already")
        base = self._base(body["baseModelIdentifier"])
        number = make_id(name)
        arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}"
        self.jobs[name] = {
            **{k: body[k] for k in ("jobName", "roleArn", "trainingDataConfig", "hyperParameters")},
            "outputDataConfig": body["outputDataConfig"],
            "validationDataConfig": body.get("validationDataConfig", {"validators": []}),
            "outputModelName": body["customModelName"],
            "clientRequestToken": token,
            "baseModelIdentifier": body["baseModelIdentifier"],
            "baseModelArn": f"arn:aws:bedrock:{REGION}::foundation-model/{base}",
            "jobArn": f"{arn}:model-customization-job/{base}/{number}",
            "modelArn": f"{arn}:custom-model/{base}/{number}",
            "creationTime": "2026-11-30T00:00:00Z",
            "customizationType": body["customizationType"],
            "started": time.time(),
            "stopped": False,
            "problem": self._find_problem(body["trainingDataConfig"]["s3Uri"]),
        }
        self.fail("created")
        return {"jobArn": self.jobs[name]["jobArn"]}

    def _base(self, identifier: str) -> str:
        if identifier in TUNING.values():
            return identifier
        for job in self.jobs.values():
            if self.job(job["jobName"]).get("outputModelArn") == identifier:
                return str(job["baseModelArn"]).rsplit("/", 1)[-1]
        raise AwsRefused("ResourceNotFoundException", f"no base model {identifier}")

    def _find_problem(self, uri: str) -> str | None:
        """What the validation of the data will find, as Nova's does."""
        content = self.read_object(uri)
        if content is None:
            return f"Could not read {uri}: access denied"
        lines = [json.loads(line) for line in content.splitlines()]
        if not 8 <= len(lines) <= 20_000:
            return f"{len(lines)} samples are out of bounds between 8 and 20000"
        for line in lines:
            roles = [message["role"] for message in line["messages"]]
            wanted = ["user", "assistant"] * (len(roles) // 2)
            texts = json.dumps(line).lower()
            if line["schemaVersion"] != "bedrock-conversation-2024" or roles != wanted:
                return "Invalid format: roles must alternate and end with assistant"
            if any(word in texts for word in RESERVED):
                return "Invalid text content: reserved keyword"
        return None

    def job(self, identifier: str) -> Json:
        """The job as it is now: time alone carries it on."""
        found = (j for j in self.jobs.values() if identifier in (j["jobName"], j["jobArn"]))
        job = next(found, None)
        if job is None:
            raise AwsRefused("ResourceNotFoundException", f"no job {identifier}")
        shown = {k: v for k, v in job.items() if k not in _INTERNAL}
        reason = job["problem"] or next(
            (r for p, r in self.told.get("fail", {}).items() if re.search(p, job["jobName"])), None
        )
        if job["stopped"]:
            return {**shown, "status": "Stopped"}
        if time.time() - job["started"] < self.told["job_s"]:
            return {**shown, "status": self.told.get("status_while_running", "InProgress")}
        if reason:
            return {**shown, "status": "Failed", "failureMessage": reason}
        if not job.get("written"):
            job["written"] = True
            self._write_metrics(job)
        return {**shown, "status": "Completed", "outputModelArn": job["modelArn"]}

    def _write_metrics(self, job: Json) -> None:
        if self.told.get("no_metrics"):
            return
        folder = f"{job['outputDataConfig']['s3Uri']}/model-customization-job-"
        folder += job["jobArn"].rsplit("/", 1)[-1]
        training = "training_artifacts/step_wise_training_metrics.csv"
        validation = "validation_artifacts/post_fine_tuning_validation/validation_metrics.csv"
        self.write_object(f"{folder}/{training}", self._table("training_loss"))
        if job["validationDataConfig"]["validators"]:
            self.write_object(f"{folder}/{validation}", self._table("validation_loss"))

    def _table(self, column: str) -> bytes:
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["step_number", "epoch_number", column, "perplexity"])
        for step in range(self.told["steps"]):
            rows.writerow([step, 0, round(1 / (step + 1), 4), 1.0])
        return text.getvalue().encode()

    def list_jobs(self) -> Json:
        jobs = [self.job(name) for name in self.jobs]
        keys = ("jobArn", "baseModelArn", "jobName", "status", "creationTime")
        return {"modelCustomizationJobSummaries": [{k: job[k] for k in keys} for job in jobs]}

    def stop_job(self, identifier: str) -> Json:
        job = self.job(identifier)
        if job["status"] != "InProgress":
            raise AwsRefused("ConflictException", f"the job is {job['status']}")
        self.jobs[job["jobName"]]["stopped"] = True
        return {}

    def create_deployment(self, body: Json) -> Json:
        self.fail("deploy")
        check("bedrock", "CreateCustomModelDeployment", body)
        name, model = body["modelDeploymentName"], body["modelArn"]
        if name in self.deployments:
            raise AwsRefused("ValidationException", f"a deployment {name} exists already")
        if model not in self._custom_models():
            raise AwsRefused("ResourceNotFoundException", f"no custom model {model}")
        arn = f"arn:aws:bedrock:{REGION}:{ACCOUNT}:custom-model-deployment"
        self.deployments[name] = {
            "customModelDeploymentArn": f"{arn}/{make_id(name)}",
            "modelDeploymentName": name,
            "modelArn": model,
            "createdAt": "2026-11-30T00:00:00Z",
            "started": time.time(),
            "fails": (self.told.get("deployments_fail") or [None]).pop(0),
        }
        self.fail("deployed")
        return {"customModelDeploymentArn": self.deployments[name]["customModelDeploymentArn"]}

    def deployment(self, identifier: str) -> Json:
        for found in self.deployments.values():
            if identifier in (found["customModelDeploymentArn"], found["modelDeploymentName"]):
                over = time.time() - found["started"] >= self.told["deploy_s"]
                shown = {k: v for k, v in found.items() if k not in ("started", "fails")}
                if over and found["fails"]:
                    return {**shown, "status": "Failed", "failureMessage": found["fails"]}
                return {**shown, "status": "Active" if over else "Creating"}
        raise AwsRefused("ResourceNotFoundException", f"no deployment {identifier}")

    def delete_deployment(self, identifier: str) -> Json:
        del self.deployments[self.deployment(identifier)["modelDeploymentName"]]
        return {}

    def delete_model(self, identifier: str) -> Json:
        check("bedrock", "DeleteCustomModel", {"modelIdentifier": identifier})
        if identifier not in self._custom_models():
            raise AwsRefused("ResourceNotFoundException", f"no custom model {identifier}")
        if any(found["modelArn"] == identifier for found in self.deployments.values()):
            raise AwsRefused("ConflictException", f"{identifier} is deployed")
        self.deleted.append(identifier)
        return {}

    def _custom_models(self) -> set[str]:
        made = {self.job(name).get("outputModelArn") for name in self.jobs}
        return made - set(self.deleted)

    def foundation_model(self, name: str) -> Json:
        self.fail("describe")
        if name not in (*TUNING, *TUNING.values()) or self.told.get("elsewhere"):
            raise AwsRefused("ResourceNotFoundException", f"Could not find model {name}")
        profile_only = name.startswith("amazon.nova-2")
        details = {
            "modelArn": f"arn:aws:bedrock:{REGION}::foundation-model/{name}",
            "modelId": name,
            "customizationsSupported": ["FINE_TUNING"] if name in TUNING.values() else [],
            "inferenceTypesSupported": ["INFERENCE_PROFILE" if profile_only else "ON_DEMAND"],
            "modelLifecycle": {"status": "ACTIVE", **(self.told.get("cycle") or {})},
        }
        return {"modelDetails": details}

    def availability(self, name: str) -> Json:
        return {
            "modelId": name,
            "agreementAvailability": {"status": "AVAILABLE"},
            "authorizationStatus": self.told.get("authorized", "AUTHORIZED"),
            "entitlementAvailability": "AVAILABLE",
            "regionAvailability": "AVAILABLE",
        }

    def converse(self, model: str, body: Json) -> Json:
        self.fail("chat")
        check("bedrock-runtime", "Converse", {"modelId": model, **body})
        roles = [message["role"] for message in body["messages"]]
        if any(one == other for one, other in itertools.pairwise(roles)) or roles[0] != "user":
            raise AwsRefused(
                "ValidationException", "roles must alternate between user and assistant"
            )
        reasoning = (body.get("additionalModelRequestFields") or {}).get("reasoningConfig")
        if reasoning and "nova-2" not in model:
            raise AwsRefused("ValidationException", "extraneous key [reasoningConfig]")
        tuned = ":custom-model-deployment/" in model
        if tuned and self.deployment(model)["status"] != "Active":
            raise AwsRefused("ResourceNotFoundException", f"deployment {model} is not active")
        if not tuned and model.removeprefix("us.") not in TUNING:
            raise AwsRefused("ValidationException", "The provided model identifier is invalid.")
        texts = [b["text"] for m in body["messages"] for b in m["content"]]
        asked = {
            "model": f"ft:{model}" if tuned else model,
            "messages": [{"content": text} for text in texts],
        }
        text = answer(asked)
        reply: Json = {
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": count(" ".join(texts), text),
            "metrics": {"latencyMs": 1},
        }
        used = reply["usage"]
        self.usage.append((tuned, used["inputTokens"], used["outputTokens"]))
        return {**reply, **(self.told.get("reply") or {})}


_INTERNAL = ("started", "stopped", "problem", "written", "modelArn", "baseModelIdentifier")


def count(prompt: str, text: str) -> Json:
    tokens = len(prompt.split()), len(text.split())
    return {"inputTokens": tokens[0], "outputTokens": tokens[1], "totalTokens": sum(tokens)}


def make_id(name: str) -> str:
    """The same in every run, so that what depends on it can be compared."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]

"""What tuning jobs of the stand-in `gemini_server` have made: model versions, and endpoints.

Deleting follows Google's rules: an endpoint goes when nothing is deployed there, a version when it
is deployed nowhere, is not the default and not the last one, a model with its last version. All of
it is done by operations. What can be told: `operation_polls`, how often an operation is asked after
before it is done; `operation_error`, with which the next one ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
_PAGE = 2


class Impossible(Exception):
    """A request that Google refuses: the HTTP status, Google's word and the message."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


@dataclass
class TunedModels:
    """Versions as {model: {version: aliases}}, endpoints as {endpoint: what is deployed there}."""

    parent: str
    versions: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    endpoints: dict[str, list[Json]] = field(default_factory=dict)
    operations: dict[str, Json] = field(default_factory=dict)
    operation_polls: int = 1
    operation_error: Json | None = None

    def add(self, made: Json) -> None:
        """A job's model and its endpoints, as soon as the job has ended well."""
        model, version = made["model"].split("@")
        # The newest version answers to the model's name.
        for aliases in self.versions.setdefault(model, {}).values():
            aliases.clear()
        self.versions[model][version] = ["default"]
        for endpoint in [made, *made.get("checkpoints", [])]:
            self.deploy(endpoint["endpoint"], model, version)

    def deploy(self, endpoint: str, model: str, version: str) -> None:
        """Deploy a version, once at an endpoint."""
        there = self.endpoints.setdefault(endpoint, [])
        shown = {"model": model, "modelVersionId": version}
        if not any(each["model"] == model and each["modelVersionId"] == version for each in there):
            there.append({"id": f"{len(there) + 1}0{endpoint.rsplit('/')[-1]}", **shown})

    def answers_at(self, endpoint: str) -> bool:
        """Whether something is deployed there."""
        return bool(self.endpoints.get(endpoint))

    def find_endpoint(self, model: str) -> str:
        """An endpoint of a version "…/models/1@2"; the name itself for any other model."""
        for endpoint, there in self.endpoints.items():
            if any(f"{each['model']}@{each['modelVersionId']}" == model for each in there):
                return endpoint
        return model

    def answer(self, method: str, name: str, verb: str | None, query: Json, body: Json) -> Json:
        """What Google says to a request about models, endpoints and operations."""
        kind = name.removeprefix(f"{self.parent}/").split("/")[0]
        match kind, method, verb:
            case "operations", "GET", None if name in self.operations:
                return self._poll(name)
            case "endpoints", "GET", None:
                return {"name": name, "deployedModels": self._find_endpoint(name)}
            case "endpoints", "POST", "undeployModel":
                return self._undeploy(name, body["deployedModelId"])
            case "endpoints", "DELETE", None:
                return self._delete_endpoint(name)
            case "models", "GET", "listVersions":
                return self._list_versions(name, query)
            case "models", "POST", "mergeVersionAliases":
                return self._move_default(name, body)
            case "models", "DELETE", None:
                return self._delete_model(name)
            case "models", "DELETE", "deleteVersion":
                return self._delete_version(name)
        raise Impossible(404, "NOT_FOUND", f"{name} was not found.")

    def _find_endpoint(self, name: str) -> list[Json]:
        if name not in self.endpoints:
            raise Impossible(404, "NOT_FOUND", f"Endpoint `{name}` not found.")
        return self.endpoints[name]

    def _find_versions(self, model: str) -> dict[str, list[str]]:
        if model not in self.versions:
            raise Impossible(404, "NOT_FOUND", f"The Model {model} does not exist.")
        return self.versions[model]

    def _undeploy(self, endpoint: str, deployed: str) -> Json:
        there = self._find_endpoint(endpoint)
        if all(each["id"] != deployed for each in there):
            raise Impossible(404, "NOT_FOUND", f"DeployedModel {deployed} not found.")
        left = [each for each in there if each["id"] != deployed]
        return self._begin(endpoint, lambda: self.endpoints.update({endpoint: left}))

    def _delete_endpoint(self, name: str) -> Json:
        if self._find_endpoint(name):
            raise Impossible(400, "FAILED_PRECONDITION", f"Endpoint {name} has deployed models.")
        return self._begin(name, lambda: self.endpoints.pop(name))

    def _list_versions(self, model: str, query: Json) -> Json:
        found = self._find_versions(model)
        start = int((query.get("pageToken") or ["0"])[0])
        shown = [
            {"name": model, "versionId": version, "versionAliases": aliases}
            for version, aliases in list(found.items())[start : start + _PAGE]
        ]
        end = start + _PAGE
        return {"models": shown, **({"nextPageToken": str(end)} if end < len(found) else {})}

    def _move_default(self, name: str, body: Json) -> Json:
        model, version = name.split("@")
        found = self._find_versions(model)
        assert body == {"versionAliases": ["default"]}
        assert version in found
        for each in found:
            found[each] = ["default"] if each == version else []
        return {"name": model, "versionId": version, "versionAliases": found[version]}

    def _delete_model(self, model: str) -> Json:
        assert "@" not in model
        self._find_versions(model)
        self._require_undeployed(model, None)
        return self._begin(model, lambda: self.versions.pop(model))

    def _delete_version(self, name: str) -> Json:
        model, version = name.split("@")
        found = self._find_versions(model)
        if version not in found:
            raise Impossible(404, "NOT_FOUND", f"The Model version {name} does not exist.")
        if len(found) == 1 or "default" in found[version]:
            raise Impossible(400, "FAILED_PRECONDITION", "the default or the only version")
        self._require_undeployed(model, version)
        return self._begin(model, lambda: found.pop(version))

    def _require_undeployed(self, model: str, version: str | None) -> None:
        for endpoint, there in self.endpoints.items():
            for each in there:
                if each["model"] == model and version in (None, each["modelVersionId"]):
                    said = f"The Model {model} is deployed at {endpoint}"
                    raise Impossible(400, "FAILED_PRECONDITION", said)

    def _begin(self, about: str, carry_out: Callable[[], object]) -> Json:
        name = f"{self.parent}/operations/{len(self.operations) + 1}"
        self.operations[name] = {"about": about, "left": self.operation_polls, "do": carry_out}
        return self._show(name)

    def _poll(self, name: str) -> Json:
        self.operations[name]["left"] -= 1
        return self._show(name)

    def _show(self, name: str) -> Json:
        operation: Mapping[str, Any] = self.operations[name]
        if operation["left"] > 0:
            return {"name": name, "metadata": {}}
        if (error := operation.get("error") or self.operation_error) is not None:
            self.operations[name]["error"], self.operation_error = error, None
            return {"name": name, "done": True, "error": error}
        if (carry_out := self.operations[name].pop("do", None)) is not None:
            carry_out()
        return {"name": name, "done": True, "response": {}}

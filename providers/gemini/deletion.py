"""Deleting tuned models of Vertex AI, with the endpoints at which they answer.

A tuning job makes both, and neither goes with the other: a model is undeployed, its endpoints are
deleted, then the model. Further training makes a new version of the same model, so a version is
deleted, and the whole model only with its last one. google-genai has no calls for versions and
endpoints, so these are requests of our own:

    https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints
    https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.models
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from google.genai import types
from google.genai.errors import APIError

from providers.calling import Caller, UnreadableAnswer, find_status
from providers.errors import BadRequest, ProviderError, TimedOut
from providers.gemini.client import GeminiConnection
from providers.gemini.settings import HOST, find_location

Json = Mapping[str, Any]

_PAUSE_S = 2.0
_LONGEST_S = 300.0


class ModelDeletion:
    """Deletes what tuning jobs have made; what is gone already counts as deleted.

    Stopped at any moment, it goes on when it is called again.

        await ModelDeletion(connection).delete(job.tuned_model)
    """

    def __init__(self, connection: GeminiConnection) -> None:
        self._connection = connection
        self._caller: Caller = connection.make_caller()

    async def find_deployed(self, endpoint: str) -> types.TunedModel | None:
        """What is deployed at an endpoint, if that is one model; for one that no job tells of."""
        found = await self._find("GET", endpoint)
        deployed = [] if found is None else found.get("deployedModels") or []
        if len(deployed) != 1:
            return None
        model, version = _split_version(deployed[0])
        return types.TunedModel(model=f"{model}@{version}", endpoint=endpoint)

    async def delete(self, made: types.TunedModel) -> None:
        """Delete a version of a model, and the endpoints that its job has made for it.

        Raises `BadRequest` if Google refuses, `TimedOut` if it takes too long, and other errors of
        a connection.
        """
        for endpoint in _list_endpoints(made):
            await self._delete_endpoint(endpoint, made)
        if made.model:
            await self._delete_version(*_split_name(made.model))

    async def _delete_endpoint(self, endpoint: str, made: types.TunedModel) -> None:
        if (found := await self._find("GET", endpoint)) is None:
            return
        others = 0
        for deployed in found.get("deployedModels") or []:
            # Somebody may have deployed a model of their own beside it, which answers on.
            if not made.model or not _is_same(deployed, made.model):
                others += 1
                continue
            body = {"deployedModelId": str(deployed["id"])}
            await self._carry_out("POST", f"{endpoint}:undeployModel", body)
        if not others:
            await self._carry_out("DELETE", endpoint)

    async def _delete_version(self, model: str, version: str) -> None:
        versions = await self._list_versions(model)
        others = [each for each in versions if each != version]
        if version not in versions:
            return
        if not others:
            await self._carry_out("DELETE", model)
            return
        # Google does not delete the version that answers to the model's name.
        if "default" in versions[version]:
            newest = max(others, key=lambda each: (len(each), each))
            body = {"versionAliases": ["default"]}
            await self._call("POST", f"{model}@{newest}:mergeVersionAliases", body)
        await self._carry_out("DELETE", f"{model}@{version}:deleteVersion")

    async def _list_versions(self, model: str) -> dict[str, list[str]]:
        """The versions of a model, each with its aliases; none if there is no such model."""
        versions: dict[str, list[str]] = {}
        page = ""
        while True:
            # The first page has no token.
            given = {"pageToken": page} if page else {}
            found = await self._find("GET", f"{model}:listVersions", given)
            if found is None:
                return versions
            for each in found.get("models") or []:
                versions[str(each["versionId"])] = list(each.get("versionAliases") or [])
            if not (page := str(found.get("nextPageToken") or "")):
                return versions

    async def _carry_out(self, method: str, name: str, body: Json | None = None) -> None:
        """Make a request that Google carries out later, and wait for that."""
        try:
            operation = await self._call(method, name, body)
        except ProviderError as error:
            # An earlier request, whose answer was lost, may have done it.
            if find_status(error) == 404:
                return
            raise
        until = time.monotonic() + _LONGEST_S
        while not operation.get("done"):
            if time.monotonic() > until:
                raise TimedOut(
                    f"Google takes more than {_LONGEST_S / 60:g} minutes for {method} {name}; "
                    "the same command goes on"
                )
            await self._caller.sleep(min(_PAUSE_S, self._connection.settings.poll_s))
            operation = await self._call("GET", str(operation["name"]))
        if failure := operation.get("error"):
            said = self._caller.scrub(str(failure.get("message") or failure))
            raise BadRequest(f"Google could not carry out {method} {name}: {said}")

    async def _find(self, method: str, name: str, query: Json | None = None) -> Json | None:
        """The answer; None if Google knows no such thing."""
        try:
            return await self._call(method, name, query=query)
        except ProviderError as error:
            if find_status(error) != 404:
                raise
            return None

    async def _call(
        self, method: str, name: str, body: Json | None = None, *, query: Json | None = None
    ) -> Json:
        return await self._caller.call_with_retry(lambda: self._send(method, name, body, query))

    async def _send(self, method: str, name: str, body: Json | None, query: Json | None) -> Json:
        connection, settings = self._connection, self._connection.settings
        # A model is where its name says, whatever the settings name now.
        host = settings.endpoint or f"https://{find_location(name, settings)}-{HOST}"
        headers = await connection.authorize()
        # As google-genai does: a user's own login may have another project for its quota.
        if payer := getattr(connection.credentials, "quota_project_id", None):
            headers["x-goog-user-project"] = str(payer)
        response = await connection.http.request(
            method, f"{host}/v1/{name}", params=query, json=body, headers=headers
        )
        await APIError.raise_for_async_response(response)
        answer = response.json()
        if not isinstance(answer, dict):
            raise UnreadableAnswer("Google answered with something else than an object")
        return answer


def _list_endpoints(made: types.TunedModel) -> list[str]:
    """The endpoints of the model and, where kept, of its earlier epochs; each once."""
    places = [made.endpoint, *(each.endpoint for each in made.checkpoints or [])]
    return list(dict.fromkeys(place for place in places if place))


def _split_name(model: str) -> tuple[str, str]:
    """A model's name and its version; the first one is version 1.

    >>> _split_name("projects/p/locations/r/models/7@2")
    ('projects/p/locations/r/models/7', '2')
    """
    name, _, version = model.partition("@")
    return name, version or "1"


def _split_version(deployed: Json) -> tuple[str, str]:
    name, version = _split_name(str(deployed["model"]))
    return name, str(deployed.get("modelVersionId") or version)


def _is_same(deployed: Json, model: str) -> bool:
    """Whether a deployed model is this one. Google names projects by id or by number."""
    there, version = _split_version(deployed)
    name, wanted = _split_name(model)
    return (there.rsplit("/", 1)[-1], version) == (name.rsplit("/", 1)[-1], wanted)

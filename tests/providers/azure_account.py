"""Azure's resource manager for tests: the deployments of one resource, beside `job_account`.

What it can be told, with the wishes of `job_server`:

    azure                  tuned models answer only under the name of a deployment that is ready
    deploy_s               how long a deployment takes
    deploy, deployed       failures before and after a deployment is created, one per request
    deploy_state           the state in which every deployment ends
    unknown_for            so many chats do not know a deployment yet
    token                  the only token that is accepted
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.providers.job_account import Account

Json = dict[str, Any]
TOKEN = "azure-token-0123456789abcdef"
RESOURCE = "me"
GROUP = "group"
SUBSCRIPTION = "sub-1"
_PATH = [SUBSCRIPTION, "resourceGroups", GROUP, "providers", "Microsoft.CognitiveServices"]


class Management:
    """The deployments, by name."""

    def __init__(self) -> None:
        self.deployments: dict[str, Json] = {}

    def answer(self, account: Account, method: str, parts: list[str], entry: Json) -> Json:
        """Answer a request for what is below `/subscriptions/`."""
        from tests.providers.job_account import Refused

        told = account.told
        if entry["headers"].get("Authorization") != f"Bearer {told.get('token', TOKEN)}":
            raise Refused(401, "The access token is invalid.", "InvalidAuthenticationToken")
        if parts[:7] != [*_PATH, "accounts", RESOURCE] or parts[7] != "deployments":
            raise Refused(404, f"The Resource '{parts[6]}' was not found.", "ResourceNotFound")
        if not entry["query"].get("api-version"):
            raise Refused(400, "api-version is missing", "MissingApiVersionParameter")
        if len(parts) == 8:
            return {"value": [self._show(account, name) for name in self.deployments]}
        name = parts[8]
        if method == "PUT":
            self._create(account, name, entry["body"])
        elif name not in self.deployments and method == "GET":
            raise Refused(404, "The specified deployment could not be found.", "ResourceNotFound")
        elif method == "DELETE":
            self.deployments.pop(name, None)
            return {}
        return self._show(account, name)

    def find(self, account: Account, name: str) -> str:
        """The model behind a deployment that is ready; any other name as it is."""
        found = self.deployments.get(name)
        if found is None or self._show(account, name)["properties"]["provisioningState"] != (
            "Succeeded"
        ):
            return "" if name.startswith("ft") else name
        if account.told.get("unknown_for", 0) > 0:
            account.told["unknown_for"] -= 1
            return ""
        return str(found["body"]["properties"]["model"]["name"])

    def _create(self, account: Account, name: str, body: Json) -> None:
        from tests.providers.job_account import Refused

        account.now("deploy")
        model = body["properties"]["model"]
        if set(model) != {"format", "name", "version"} or set(body["sku"]) != {"name", "capacity"}:
            raise Refused(400, f"Invalid body {body}", "InvalidRequestContent")
        found = self.deployments.setdefault(name, {"since": time.time(), "times": 0})
        found |= {"body": body, "times": found["times"] + 1}
        account.now("deployed")

    def _show(self, account: Account, name: str) -> Json:
        found = self.deployments[name]
        over = time.time() - found["since"] >= account.told.get("deploy_s", 0.0)
        state = account.told.get("deploy_state", "Succeeded") if over else "Creating"
        properties = {**found["body"]["properties"], "provisioningState": state}
        return {"name": name, "sku": found["body"]["sku"], "properties": properties}

"""The token for Azure's resource manager: from the environment, or from Azure's command line."""

from __future__ import annotations

import asyncio
import contextlib

from providers.errors import AuthenticationFailed
from providers.openai.settings import DeploymentSettings
from providers.secrets import Secrets, read_variable

_PURPOSE = "it holds a token for Azure's resource manager"
_COMMAND = "az account get-access-token"
_LONGEST_S = 60.0


class ManagementToken:
    """Reads the token when it is first needed, and again after `forget`. It is never stored.

    `secrets` removes it from messages.

        token = ManagementToken(settings)
        headers = {"Authorization": f"Bearer {await token.read()}"}
    """

    def __init__(self, settings: DeploymentSettings) -> None:
        self._settings = settings
        self._value: str | None = None
        self.secrets = Secrets()

    async def read(self) -> str:
        """The token. Raises `AuthenticationFailed` with what to do if there is none."""
        if self._value is None:
            name = self._settings.token_env
            value = read_variable(name, _PURPOSE) if name else await self._ask_command_line()
            if not value.isascii() or not value.isprintable() or " " in value:
                raise AuthenticationFailed(
                    f"what is given as Azure's token is no token; {self.remedy}"
                )
            self._value, self.secrets = value, Secrets({"token": value})
        return self._value

    def forget(self) -> None:
        """Read the token anew at the next call, because it has expired."""
        self._value = None

    @property
    def remedy(self) -> str:
        """How the user gets a token that is accepted."""
        if self._settings.token_env:
            return f"put a fresh one into {self._settings.token_env} ({_COMMAND})"
        return "run `az login`"

    async def _ask_command_line(self) -> str:
        command = [*_COMMAND.split(), "--resource", self._settings.url]
        command += ["--subscription", self._settings.subscription]
        command += ["--query", "accessToken", "--output", "tsv"]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise AuthenticationFailed(
                f"Azure's command line cannot be started ({error}), and [provider.deployment] "
                "token_env names no variable with a token; install `az` and run `az login`, or "
                "set token_env"
            ) from None
        try:
            out, err = await asyncio.wait_for(process.communicate(), _LONGEST_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise AuthenticationFailed(
                f"`{_COMMAND}` gave no token within {_LONGEST_S:.0f} s; run it yourself"
            ) from None
        if process.returncode:
            said = Secrets().scrub(err.decode(errors="replace").strip())[:300]
            raise AuthenticationFailed(
                f"`{_COMMAND}` gave no token ({said or 'it says nothing'}); {self.remedy}, or set "
                "token_env in [provider.deployment]"
            )
        return out.decode(errors="replace").strip()

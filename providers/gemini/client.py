"""One connection to Gemini: google-genai on httpx2, with its credentials and its bucket."""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import google.auth
import httpx2
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request as SignIn
from google.genai import Client
from google.genai.client import AsyncClient
from google.genai.types import HttpOptions, HttpRetryOptions

from providers.calling import Caller, CallFailure
from providers.errors import AuthenticationFailed, InvalidSettings
from providers.gemini.errors import Place, translate_error
from providers.gemini.settings import GeminiSettings
from providers.secrets import Secrets, read_variable

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_CONNECT_S = 30.0
_SPARE_CONNECTIONS = 16
_CHUNK = 2**20
_PROJECT_REMEDY = "set provider.project, or the environment variable GOOGLE_CLOUD_PROJECT"


class GeminiConnection:
    """The clients of one project, or of one key, and what they must keep secret.

    Use it in one event loop and close it; `open_connection` makes it. `account` identifies whose
    quota is used, without revealing a key.
    """

    def __init__(
        self,
        model: str,
        settings: GeminiSettings,
        *,
        project: str = "",
        credentials: Credentials | None = None,
        key: str = "",
    ) -> None:
        self.model = model
        self.settings = settings
        self.project = project
        self.credentials = credentials
        self._key = key
        self._signing_in = asyncio.Lock()
        self._clients: dict[str, Client] = {}
        timeout = httpx2.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s))
        limits = httpx2.Limits(
            max_connections=settings.limits.max_concurrent + _SPARE_CONNECTIONS,
            max_keepalive_connections=settings.limits.max_concurrent,
        )
        # A redirect would send token and conversation to a server that the user did not name.
        self.http = httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)
        whose = f"{project} {settings.answers_at}" if not key else _hash_key(key)
        self.account = f"gemini {settings.endpoint or ''} {whose}"

    @property
    def secrets(self) -> Secrets:
        """The key, or the token as it is now."""
        token = getattr(self.credentials, "token", None) or ""
        return Secrets({"key": self._key, "token": token})

    @property
    def place(self) -> Place:
        """Where calls go, for messages."""
        return Place(self.model, self.settings.answers_at, self.settings.on_vertex)

    def translate(self, error: Exception) -> CallFailure | None:
        """What an exception of a call means; see `providers.calling`."""
        return translate_error(error, self.secrets, self.place)

    def make_caller(self) -> Caller:
        """A caller for files and jobs."""
        settings = self.settings
        return Caller(
            self.translate,
            lambda text: self.secrets.scrub(text),
            settings.to_retry_policy(),
            timeout_s=settings.timeout_s,
        )

    def get_client(self, location: str) -> AsyncClient:
        """The client of one location; that of the Developer API has none."""
        if location not in self._clients:
            self._clients[location] = self._make_client(location)
        return self._clients[location].aio

    async def authorize(self) -> dict[str, str]:
        """The headers of a request to Cloud Storage; contain a secret."""
        credentials = self.credentials
        if credentials is None:
            raise InvalidSettings(
                "[provider] api_key_env opens no Cloud Storage; remove it to use Vertex AI"
            )
        async with self._signing_in:
            if not credentials.valid:
                await asyncio.to_thread(credentials.refresh, SignIn())
        return {"Authorization": f"Bearer {credentials.token}"}

    async def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        await self.http.aclose()

    def _make_client(self, location: str) -> Client:
        settings = self.settings
        options = HttpOptions(
            base_url=settings.endpoint,
            timeout=int(settings.timeout_s * 1000),
            httpx_async_client=self.http,
            # Without it the package repeats requests after a broken connection, those that create
            # jobs too; one attempt is what "retry options" of 1 mean.
            retry_options=HttpRetryOptions(attempts=1),
        )
        if not settings.on_vertex:
            return Client(vertexai=False, api_key=self._key, http_options=options)
        return Client(
            vertexai=True,
            project=self.project,
            location=location,
            credentials=self.credentials,
            http_options=options,
        )


class GoogleBucket:
    """A bucket of Cloud Storage; see `providers.bucket.Bucket`.

    https://cloud.google.com/storage/docs/json_api/v1/objects
    """

    def __init__(self, connection: GeminiConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._url = f"{connection.settings.storage_endpoint}/storage/v1/b/{quote(name)}"

    async def find_size(self, name: str) -> int | None:
        response = await self._get(f"{self._url}/o/{quote(name, safe='')}")
        if response.status_code == 404:
            return None
        size = response.raise_for_status().json().get("size")
        return int(size) if str(size).isdigit() else None

    async def upload(self, name: str, path: Path) -> None:
        size = (await asyncio.to_thread(path.stat)).st_size
        url = self._url.replace("/storage/v1/", "/upload/storage/v1/", 1)
        response = await self._connection.http.post(
            f"{url}/o",
            params={"uploadType": "media", "name": name},
            headers={
                **await self._connection.authorize(),
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
            },
            content=_read_chunks(path),
        )
        response.raise_for_status()

    def locate(self, name: str) -> str:
        return f"gs://{self._name}/{name}"

    def find_name(self, uri: str) -> str:
        """The name of the object at a URI of this bucket; see `locate`."""
        return uri.removeprefix(self.locate(""))

    async def list_names(self, prefix: str) -> list[str]:
        """The names of all objects that begin with `prefix`."""
        names: list[str] = []
        page = ""
        while True:
            response = await self._get(f"{self._url}/o", prefix=prefix, pageToken=page)
            found = response.raise_for_status().json()
            names += [str(item["name"]) for item in found.get("items", [])]
            if not (page := found.get("nextPageToken", "")):
                return names

    async def download(self, name: str, path: Path) -> None:
        """Write the content of an object to `path`."""
        url = f"{self._url}/o/{quote(name, safe='')}"
        headers = await self._connection.authorize()
        stream = self._connection.http.stream("GET", url, params={"alt": "media"}, headers=headers)
        # Streamed to disk, since the answers of a batch may have hundreds of megabytes.
        async with stream as response:
            if response.is_error:
                await response.aread()
            response.raise_for_status()
            with await asyncio.to_thread(path.open, "wb") as file:
                async for chunk in response.aiter_bytes():
                    await asyncio.to_thread(file.write, chunk)

    async def read_location(self) -> str:
        """The location of the bucket, such as "US-CENTRAL1"; raises if it cannot be reached."""
        found = (await self._get(self._url)).raise_for_status().json().get("location")
        return str(found or "")

    async def _get(self, url: str, **params: str) -> httpx2.Response:
        headers = await self._connection.authorize()
        # The first page has no token, and some buckets no prefix.
        given = {name: value for name, value in params.items() if value}
        return await self._connection.http.get(url, params=given, headers=headers)


async def open_connection(model: str, settings: GeminiSettings) -> GeminiConnection:
    """Read the key or load the credentials; nothing is sent.

    Raises `AuthenticationFailed` without credentials, `InvalidSettings` without a project.

        connection = await open_connection("gemini-3.5-flash", GeminiSettings(project="p"))
    """
    # The package says that its tuning is experimental, once in every process.
    warnings.filterwarnings("ignore", message="The SDK's tuning implementation is experimental")
    if settings.api_key_env is not None:
        key = read_variable(settings.api_key_env, "it holds the key of the Gemini Developer API")
        return GeminiConnection(model, settings, key=key)
    try:
        # In a thread: it may look for the metadata server of a Google machine.
        credentials, found = await asyncio.to_thread(google.auth.default, _SCOPES)
    except (GoogleAuthError, OSError, ValueError) as error:
        raise AuthenticationFailed(
            f"no application-default credentials ({Secrets().quote(str(error))}); log in with "
            "`gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or chat "
            "with a key: provider.api_key_env"
        ) from None
    if not (project := settings.project or found):
        raise InvalidSettings(f"the Google Cloud project is not known; {_PROJECT_REMEDY}")
    return GeminiConnection(model, settings, project=project, credentials=credentials)


async def _read_chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


def _hash_key(key: str) -> str:
    """Tells keys apart without holding them."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]

"""One connection to Bedrock: boto3's clients, the threads they block, and what to keep secret."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from providers.bedrock.errors import AwsErrors
from providers.bedrock.settings import BedrockSettings
from providers.call_threads import CallThreads
from providers.calling import Caller, CallFailure
from providers.errors import AuthenticationFailed, InvalidSettings
from providers.secrets import Secrets

T = TypeVar("T")

_CONNECT_S = 30.0
# Threads to spare for the few calls about jobs, which bypass the limiter.
_SPARE_THREADS = 8
_NO_CREDENTIALS = (
    "AWS credentials are missing; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run aws "
    "configure, or name a profile in [provider]"
)


class BedrockConnection:
    """Clients of the services `bedrock`, `bedrock-runtime` and `s3` in one region.

    boto3 blocks, so each call takes a thread, of which there are as many as the limiter lets calls
    through. `account` identifies credentials and region without revealing them. Raises
    `InvalidSettings` without a region, `AuthenticationFailed` without credentials.

        settings = BedrockSettings(region="us-east-1")
        connection = BedrockConnection(settings, "amazon.nova-micro-v1:0")
        answer = await connection.call(connection.runtime.converse, modelId=…, messages=…)
    """

    def __init__(self, settings: BedrockSettings, model: str) -> None:
        # botocore's debug log has requests with their session token.
        for name in ("botocore", "boto3", "urllib3"):
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.WARNING))
        session = _open_session(settings)
        self.region = _find_region(settings, session)
        try:
            self._credentials = session.get_credentials()
        except BotoCoreError as error:
            raise AuthenticationFailed(f"{_NO_CREDENTIALS} ({error})") from None
        if self._credentials is None:
            raise AuthenticationFailed(_NO_CREDENTIALS)
        self._model = model
        self._policy = settings.to_retry_policy()
        self._secrets = Secrets()
        self._remember_credentials()
        self.account = f"bedrock {self.region} {settings.endpoint_url or ''} {self._fingerprint}"
        self._threads = CallThreads(settings.limits.max_concurrent + _SPARE_THREADS)
        make = partial(
            session.client,
            region_name=self.region,
            endpoint_url=settings.endpoint_url,
            config=_make_config(settings),
        )
        self.control: Any = make("bedrock")
        self.runtime: Any = make("bedrock-runtime")
        self.storage: Any = make("s3")

    @property
    def secrets(self) -> Secrets:
        """What must never be shown; credentials that expire are replaced meanwhile."""
        return self._secrets

    async def call(self, operation: Callable[..., T], **parameters: object) -> T:
        """The result of a client's method, called in a thread. Raises what botocore raises."""
        return await self.run(partial(operation, **parameters))

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may block."""
        return await self._threads.run(partial(self._work, work))

    def translate(self, error: Exception) -> CallFailure | None:
        """What a failure means; see `AwsErrors.translate`."""
        return AwsErrors(self._secrets, self.region, self._model).translate(error)

    def make_caller(self) -> Caller:
        """Makes the calls about files, jobs and deployments."""
        return Caller(self.translate, lambda text: self._secrets.scrub(text), self._policy)

    async def close(self) -> None:
        """Close the connections; calls in flight end by themselves."""
        self._threads.close()
        for client in (self.control, self.runtime, self.storage):
            client.close()

    def _work(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception:
            # In this thread, since a role's credentials may have to be fetched anew.
            self._remember_credentials()
            raise

    def _remember_credentials(self) -> None:
        try:
            frozen = self._credentials.get_frozen_credentials()
        # Then there is nothing new to hide, and the call itself says what is wrong.
        except BotoCoreError:
            return
        values = {"access key": frozen.access_key, "secret key": frozen.secret_key}
        values["session token"] = frozen.token or ""
        self._secrets = Secrets({name: value or "" for name, value in values.items()})
        self._fingerprint = hashlib.sha256(str(frozen.access_key).encode()).hexdigest()[:16]


def _open_session(settings: BedrockSettings) -> Any:
    try:
        return boto3.Session(profile_name=settings.profile, region_name=settings.region)
    except ProfileNotFound as error:
        raise InvalidSettings(
            f"[provider] profile: {error}; correct it, or set AWS_CONFIG_FILE"
        ) from None


def _find_region(settings: BedrockSettings, session: Any) -> str:
    region = settings.region or session.region_name
    if not region:
        raise InvalidSettings(
            '[provider] region is not set; write region = "us-east-1", or set AWS_REGION'
        )
    return str(region)


def _make_config(settings: BedrockSettings) -> Config:
    return Config(
        connect_timeout=min(_CONNECT_S, settings.timeout_s),
        read_timeout=settings.timeout_s,
        max_pool_connections=settings.limits.max_concurrent + _SPARE_THREADS,
        # The limiter and `Caller` retry: a retry in here would be billed unseen.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # A bucket is no host name of a server that is not AWS's.
        s3={"addressing_style": "path"} if settings.endpoint_url else {},
    )

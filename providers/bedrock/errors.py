"""From what botocore raises to our error tree.

Codes: https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and the errors in botocore's
models of the services `bedrock`, `bedrock-runtime` and `s3`. No message contains a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from providers.calling import CallFailure, UnreadableAnswer
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    ContentFiltered,
    ContextOverflow,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    Unreachable,
)
from providers.limits.waits import parse_retry_after
from providers.secrets import Secrets
from providers.usage import FREE, Usage, bill_refusal

_IDENTITY = frozenset(
    {
        *("UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature"),
        *("InvalidClientTokenId", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"),
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"),
        *("AuthFailure", "NotAuthorized", "OptInRequired"),
    }
)
_FORBIDDEN = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})
_SLOW_DOWN = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "SlowDown",
        "RequestLimitExceeded",
    }
)
_BUSY = frozenset({"ServiceUnavailableException", "ServiceUnavailable", "ModelNotReadyException"})
_CONFLICTS = frozenset({"ConflictException", "ResourceInUseException"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
# A quota of a whole day: no waiting within a run helps.
_PER_DAY = re.compile(r"tokens per day|per day", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"input is too long|too many input tokens|context window|exceeds? the (maximum )?(context|"
    r"number of input tokens)|prompt is too long|maximum context length",
    re.IGNORECASE,
)
_TOO_MANY_NEW = re.compile(r"max(imum)?[ _]?tokens? .*exceeds|maxTokens", re.IGNORECASE)
_SAMPLING = re.compile(r"temperature|top_?p|top_?k|stop_?sequences", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model identifier is invalid|provided model|model .*(not found|not supported|isn.t supported)"
    r"|end of its life|could not find.*model",
    re.IGNORECASE,
)
_PROFILE_ONLY = re.compile(r"on-demand throughput isn.t supported", re.IGNORECASE)
_BLOCKED = re.compile(r"content (filter|polic)|blocked by|guardrail.*blocked", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"operation not allowed", re.IGNORECASE)
_JOBS_FULL = re.compile(r"concurrent|in.?progress|scheduled|jobs", re.IGNORECASE)
_REFRESH = (
    "refresh them (aws sso login, a new session token), or name another profile in [provider]"
)


@dataclass(frozen=True, slots=True)
class AwsRefusal:
    """A refusal of a service, reduced to what decisions depend on. `message` is scrubbed."""

    code: str
    message: str
    status: int
    operation: str
    retry_after_s: float | None = None

    @property
    def text(self) -> str:
        """The refusal for a message of ours."""
        return f"({self.operation}: {self.code}: {self.message})"


class ConflictRefused(BadRequest):
    """What was to be created is there already, or is being changed."""


class ResourceMissing(BadRequest):
    """The service knows no such job, deployment, model, bucket or object."""


@dataclass(frozen=True, slots=True)
class AwsErrors:
    """Translates the failures of one connection, whose region and model its messages name.

    Example: `Caller(AwsErrors(secrets, "us-east-1", "amazon.nova-micro-v1:0").translate, …)`.
    """

    secrets: Secrets
    region: str
    model: str

    def translate(self, error: Exception) -> CallFailure | None:
        """What an exception means; None if it does not come from botocore."""
        if isinstance(error, boto.ClientError):
            refusal = self._parse(error)
            billed = bill_refusal(refusal.status) if refusal.status >= 300 else None
            return CallFailure(self._classify(refusal), refusal.status, billed=billed)
        if isinstance(error, ResponseParserError):
            reason = self.secrets.quote(str(error))
            return CallFailure(UnreadableAnswer(f"AWS's answer cannot be read ({reason})"), 200)
        if isinstance(error, boto.BotoCoreError | boto.HTTPClientError):
            return self._classify_transport(error)
        return None

    def _parse(self, error: boto.ClientError) -> AwsRefusal:
        body = error.response.get("Error") or {}
        about = error.response.get("ResponseMetadata") or {}
        return AwsRefusal(
            code=str(body.get("Code") or "Unknown"),
            message=self.secrets.quote(str(body.get("Message") or "no reason given")),
            status=int(about.get("HTTPStatusCode") or 0),
            operation=str(error.operation_name),
            retry_after_s=parse_retry_after(about.get("HTTPHeaders") or {}),
        )

    def _classify(self, refusal: AwsRefusal) -> ProviderError:
        code, hint, text = refusal.code, refusal.retry_after_s, refusal.text
        if code in _IDENTITY:
            return AuthenticationFailed(f"AWS refuses the credentials {text}; {_REFRESH}")
        if code in _FORBIDDEN or refusal.status == 403:
            return self._explain_forbidden(refusal)
        if code in _SLOW_DOWN and _PER_DAY.search(refusal.message):
            return QuotaExhausted(
                f"the account's quota of tokens per day is used up {text}; start again tomorrow, "
                "or have the quota raised: what is stored is kept"
            )
        if code in _SLOW_DOWN:
            return RateLimited(f"Bedrock's rate limit is reached {text}", retry_after_s=hint)
        if code == "ServiceQuotaExceededException":
            return _explain_quota(refusal)
        if code in _BUSY or refusal.status == 503:
            return Overloaded(f"Bedrock cannot take the request now {text}", retry_after_s=hint)
        if code == "ModelTimeoutException" or refusal.status == 408:
            return TimedOut(f"the model did not answer in time {text}")
        if code in _CONFLICTS:
            return ConflictRefused(f"it is there already or in use {text}")
        if code in _NO_BUCKET:
            return InvalidSettings(
                f"there is no such bucket {text}; correct bucket in [provider], or create it"
            )
        if refusal.status == 404 or code == "ResourceNotFoundException":
            return self._explain_missing(refusal)
        if refusal.status == 424 or refusal.status >= 500:
            return RetryableError(f"Bedrock failed {text}", retry_after_s=hint)
        return self._classify_validation(refusal)

    def _classify_validation(self, refusal: AwsRefusal) -> ProviderError:
        message, text = refusal.message, refusal.text
        chats = refusal.operation == "Converse"
        if _PROFILE_ONLY.search(message):
            return ModelNotFound(
                f"{self.model} is answered through an inference profile only {text}; write its "
                f"name into the model address, such as bedrock:us.{self.model}"
            )
        if _NOT_ALLOWED.search(message):
            return AuthenticationFailed(
                f"the account may not use Bedrock's models {text}; ask AWS support to enable it"
            )
        if chats and _NO_MODEL.search(message):
            return self._explain_missing(refusal)
        if chats and _TOO_LONG.search(message):
            return ContextOverflow(
                f"prompt and answer do not fit into the model's context {text}; lower "
                "sampling.max_tokens, or use fewer agents or rounds"
            )
        if chats and (_TOO_MANY_NEW.search(message) or _SAMPLING.search(message)):
            return InvalidSettings(
                f"{self.model} does not take these parameters {text}; change [sampling]"
            )
        if chats and _BLOCKED.search(message):
            return ContentFiltered(f"Bedrock refuses this content {text}")
        return BadRequest(f"Bedrock refuses the request {text}")

    def _explain_forbidden(self, refusal: AwsRefusal) -> ProviderError:
        needs = {
            "Converse": "bedrock:InvokeModel, and access to the model",
            "CreateModelCustomizationJob": "bedrock:CreateModelCustomizationJob and iam:PassRole",
            "HeadObject": "s3:GetObject and s3:ListBucket",
            "HeadBucket": "s3:ListBucket",
        }.get(refusal.operation, f"the permission for {refusal.operation}")
        return AuthenticationFailed(
            f"AWS denies access {refusal.text}; the credentials need {needs} in {self.region}"
        )

    def _explain_missing(self, refusal: AwsRefusal) -> ProviderError:
        if refusal.operation == "Converse":
            return ModelNotFound(
                f"region {self.region} has no model {self.model!r} for this account "
                f"{refusal.text}; check its name, take another region in [provider], or request "
                "access to the model in the Bedrock console"
            )
        return ResourceMissing(f"not found in {self.region} {refusal.text}")

    def _classify_transport(self, error: Exception) -> CallFailure:
        reason = self.secrets.quote(str(error) or type(error).__name__)
        never = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
        found: ProviderError
        match error:
            case boto.NoCredentialsError() | boto.PartialCredentialsError():
                found = AuthenticationFailed(
                    f"AWS credentials are missing ({reason}); set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, run aws configure, or name a profile in [provider]"
                )
                return CallFailure(found, sent=False, billed=FREE)
            case (
                boto.CredentialRetrievalError()
                | boto.TokenRetrievalError()
                | boto.SSOError()
                | boto.MetadataRetrievalError()
            ):
                found = AuthenticationFailed(f"AWS gives no credentials ({reason}); {_REFRESH}")
                return CallFailure(found, sent=False, billed=FREE)
            case boto.SSLError():
                found = InvalidSettings(
                    f"the endpoint's certificate is not trusted ({reason}); check endpoint_url, or "
                    "make the certificate's authority known (AWS_CA_BUNDLE)"
                )
                return CallFailure(found, sent=False, billed=FREE)
            case boto.ParamValidationError():
                found = BadRequest(f"the request does not have Bedrock's form ({reason})")
                return CallFailure(found, sent=False, billed=FREE)
            case boto.ReadTimeoutError():
                return CallFailure(TimedOut(f"Bedrock did not answer in time ({reason})"))
        if isinstance(error, never):
            found = Unreachable(
                f"no connection to Bedrock in {self.region} ({reason}); check the region"
            )
            return CallFailure(found, sent=False, billed=FREE)
        return CallFailure(ConnectionLost(f"the connection to Bedrock broke ({reason})"))


def _explain_quota(refusal: AwsRefusal) -> ProviderError:
    text = refusal.text
    # So many jobs at a time: the next one may be created once one of them has ended.
    if refusal.operation == "CreateModelCustomizationJob" and _JOBS_FULL.search(refusal.message):
        return RateLimited(
            f"the account's jobs are at their limit {text}", retry_after_s=refusal.retry_after_s
        )
    return QuotaExhausted(
        f"a quota of the account is used up {text}; delete models and deployments that you no "
        "longer need, or have the quota raised, then start again: what is stored is kept"
    )


def read_billed(usage: Mapping[str, object]) -> Usage | None:
    """The tokens of an answer; None if they are missing or make no sense.

    >>> read_billed({"inputTokens": 9, "outputTokens": 12, "totalTokens": 21})
    Usage(prompt_tokens=9, completion_tokens=12, estimated=False)
    """
    counts = [usage.get(name) for name in ("inputTokens", "outputTokens", "totalTokens")]
    prompt, written, total = (
        n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in counts
    )
    if prompt is None or written is None:
        return None
    # Tokens read from or written to a cache are counted in the total only.
    return Usage(max(prompt, (total or 0) - written), written)

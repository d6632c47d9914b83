"""Every error that AWS's own description names for the operations in use has a meaning."""

from __future__ import annotations

import botocore.session
import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from providers.bedrock.chat import _ENDINGS
from providers.bedrock.errors import AwsErrors, ConflictRefused, ResourceMissing
from providers.bedrock.job_format import map_status
from providers.calling import UnreadableAnswer
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    InvalidSettings,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    TimedOut,
    Unreachable,
)
from providers.secrets import Secrets
from providers.usage import FREE
from tests.providers import bedrock_account

OPERATIONS = {
    "bedrock-runtime": ("Converse",),
    "bedrock": (
        *("CreateModelCustomizationJob", "GetModelCustomizationJob"),
        *("ListModelCustomizationJobs", "StopModelCustomizationJob", "GetCustomModel"),
        *("CreateCustomModelDeployment", "GetCustomModelDeployment"),
        *("DeleteCustomModelDeployment", "GetFoundationModel", "GetFoundationModelAvailability"),
    ),
}
ERRORS = AwsErrors(Secrets(), "us-east-1", "amazon.nova-micro-v1:0")
JOB = "CreateModelCustomizationJob"
STATUS = {
    **bedrock_account.STATUS,
    "ConflictException": 409,
    "ResourceInUseException": 400,
    "403": 403,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "InvalidAccessKeyId": 403,
    "SlowDown": 503,
}
MEANINGS = {
    "AccessDeniedException": (AuthenticationFailed, "the credentials need .* in us-east-1"),
    "ThrottlingException": (RateLimited, "rate limit is reached"),
    "ResourceNotFoundException": ((ModelNotFound, ResourceMissing), "us-east-1"),
    "ModelTimeoutException": (TimedOut, "did not answer in time"),
    "InternalServerException": (RetryableError, "Bedrock failed"),
    "ServiceUnavailableException": (Overloaded, "cannot take the request now"),
    "ModelNotReadyException": (Overloaded, "cannot take the request now"),
    "ModelErrorException": (RetryableError, "Bedrock failed"),
    "ValidationException": (BadRequest, "refuses the request"),
    "ConflictException": (ConflictRefused, "there already or in use"),
    "TooManyTagsException": (BadRequest, "refuses the request"),
    "ServiceQuotaExceededException": (QuotaExhausted, "delete models and deployments"),
}


def translate(operation, code, message="some reason"):
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": STATUS.get(code, 400)},
    }
    found = ERRORS.translate(ClientError(answer, operation))
    assert found is not None
    return found


def list_documented():
    session = botocore.session.Session()
    for service, operations in OPERATIONS.items():
        model = session.get_service_model(service)
        for operation in operations:
            for shape in model.operation_model(operation).error_shapes:
                yield operation, shape.name


@pytest.mark.parametrize(("operation", "code"), list(list_documented()))
def test_a_documented_error_means_something_and_names_aws_s_words(operation, code):
    kind, words = MEANINGS[code]
    found = translate(operation, code)
    assert isinstance(found.error, kind)
    assert f"({operation}: {code}: some reason)" in str(found.error)
    with pytest.raises(kind, match=words):
        raise found.error


@pytest.mark.parametrize(
    ("operation", "code", "message", "kind", "words"),
    [
        (JOB, "ServiceQuotaExceededException", "2 concurrent jobs", RateLimited, "at their limit"),
        (JOB, "AccessDeniedException", "no", AuthenticationFailed, "iam:PassRole"),
        ("HeadBucket", "403", "Forbidden", AuthenticationFailed, "s3:ListBucket"),
        ("HeadObject", "AccessDenied", "no", AuthenticationFailed, "s3:GetObject"),
        ("PutObject", "AccessDenied", "no", AuthenticationFailed, "permission for PutObject"),
        ("PutObject", "NoSuchBucket", "no", InvalidSettings, r"correct bucket in \[provider\]"),
        ("PutObject", "InvalidAccessKeyId", "no", AuthenticationFailed, "aws sso login"),
        ("PutObject", "SlowDown", "no", RateLimited, "rate limit"),
        ("GetObject", "NoSuchKey", "no", ResourceMissing, "not found in us-east-1"),
        ("Converse", "InvalidSignatureException", "no", AuthenticationFailed, "credentials"),
        ("Converse", "Unheard", "no", BadRequest, "refuses the request"),
    ],
)
def test_what_an_error_means_depends_on_what_was_asked(operation, code, message, kind, words):
    with pytest.raises(kind, match=words):
        raise translate(operation, code, message).error


@pytest.mark.parametrize(
    ("error", "kind", "words", "billed"),
    [
        (boto.NoCredentialsError(), AuthenticationFailed, "aws configure", FREE),
        (boto.SSOTokenLoadError(error_msg="expired"), AuthenticationFailed, "aws sso login", FREE),
        (
            boto.CredentialRetrievalError(provider="sso", error_msg="x"),
            AuthenticationFailed,
            "gives no credentials",
            FREE,
        ),
        (boto.SSLError(endpoint_url="u", error="bad"), InvalidSettings, "AWS_CA_BUNDLE", FREE),
        (boto.EndpointConnectionError(endpoint_url="u"), Unreachable, "check the region", FREE),
        (boto.ConnectTimeoutError(endpoint_url="u"), Unreachable, "check the region", FREE),
        (boto.ReadTimeoutError(endpoint_url="u"), TimedOut, "did not answer in time", None),
        (boto.ConnectionClosedError(endpoint_url="u"), ConnectionLost, "broke", None),
        (boto.ParamValidationError(report="x"), BadRequest, "does not have Bedrock's form", FREE),
        (ResponseParserError("not JSON"), UnreadableAnswer, "cannot be read", None),
    ],
)
def test_a_failure_of_the_connection_says_what_to_do_and_what_it_can_cost(
    error, kind, words, billed
):
    found = ERRORS.translate(error)
    assert found is not None
    assert found.billed == billed
    with pytest.raises(kind, match=words):
        raise found.error


def test_an_error_that_is_not_aws_s_has_no_meaning():
    assert ERRORS.translate(KeyError("a bug")) is None


def test_every_ending_and_status_that_aws_documents_is_known():
    session = botocore.session.Session()
    converse = session.get_service_model("bedrock-runtime").operation_model("Converse")
    assert set(converse.output_shape.members["stopReason"].enum) == set(_ENDINGS)
    statuses = session.get_service_model("bedrock").shape_for("ModelCustomizationJobStatus").enum
    assert {status: map_status(status) for status in statuses} == {
        "InProgress": "running",
        "Completed": "succeeded",
        "Failed": "failed",
        "Stopping": "running",
        "Stopped": "cancelled",
    }

"""What is the same for all vendors: paid attempts, creating once, data in a bucket, secrets."""

from dataclasses import replace

import pytest

from providers.bucket import name_object, store_examples
from providers.calling import (
    Caller,
    CallFailure,
    UnreadableAnswer,
    attempt_paid,
    create_once,
    find_status,
    is_unreachable,
)
from providers.errors import (
    AmbiguousSubmission,
    BadRequest,
    ConnectionLost,
    InvalidTrainingData,
    Overloaded,
    RateLimited,
)
from providers.limits.retry import RetryPolicy
from providers.secrets import HIDDEN, Secrets
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
)
from providers.usage import FREE, Usage, current_attempts

SPEC = FinetuneSpec(
    name="run-multiagent-a1-generator-it1-0123abcd",
    start=ModelRef("vendor:m", "vendor:m"),
    examples=[Example((Message("user", "1+1?"), Message("assistant", "2")), (1,))],
    dataset_sha256="0123abcd",
    hyperparameters=Hyperparameters(),
)


class VendorError(Exception):
    """What a vendor's package raises, with a token in its words."""

    def __init__(self, status=None):
        super().__init__("token ya29.a0AfB_byDeEf is not welcome")
        self.status = status


def translate(error):
    if not isinstance(error, VendorError):
        return None
    text = Secrets().quote(str(error))
    match error.status:
        case None:
            return CallFailure(ConnectionLost(text), sent=False, billed=FREE)
        case 429:
            return CallFailure(RateLimited(text), 429, billed=FREE)
        case 400:
            return CallFailure(BadRequest(text), 400, billed=FREE)
    return CallFailure(Overloaded(text), error.status)


async def at_once(seconds):
    return None


def make_caller(attempts=3):
    return Caller(translate, Secrets().scrub, RetryPolicy(attempts=attempts), sleep=at_once)


def failing(*failures, result="done"):
    """A call that fails like this, one after the other, and then succeeds."""
    left = list(failures)

    async def call():
        call.made += 1
        if left:
            raise left.pop(0)
        return result

    call.made = 0
    return call


async def test_a_failure_is_translated_without_the_vendor_s_words_behind_it():
    with pytest.raises(BadRequest) as caught:
        await make_caller().call_with_retry(failing(VendorError(400)))
    assert str(caught.value) == f"token {HIDDEN} is not welcome"
    assert find_status(caught.value) == 400
    assert caught.value.__context__ is None
    with pytest.raises(ConnectionLost) as caught:
        await make_caller().call_once(failing(VendorError()))
    assert is_unreachable(caught.value)


async def test_passing_failures_are_retried_and_others_are_not():
    assert await make_caller().call_with_retry(failing(VendorError(503), VendorError())) == "done"
    refused = failing(VendorError(400))
    with pytest.raises(BadRequest):
        await make_caller().call_with_retry(refused)
    assert refused.made == 1
    with pytest.raises(UnreadableAnswer):
        await make_caller().call_once(failing(ValueError("no JSON")))
    with pytest.raises(ZeroDivisionError):
        await make_caller().call_once(failing(ZeroDivisionError()))


async def test_what_may_exist_is_not_created_again():
    for failure, settles_in_s in (
        (VendorError(500), 7.0),
        (VendorError(504), 14.0),
        (UnreadableAnswer("{"), None),
    ):
        create = failing(failure)
        with pytest.raises(AmbiguousSubmission, match="job x may or may not") as caught:
            await create_once(make_caller(), "job x", create, lag_s=7.0)
        assert (create.made, caught.value.settles_in_s) == (1, settles_in_s)
    create = failing(VendorError(429), VendorError(), VendorError(429))
    assert await create_once(make_caller(), "job x", create) == "done"
    assert create.made == 4


class Counter:
    """A payer that records what it is told."""

    def __init__(self):
        self.told = []

    def record_answer(self, usage):
        self.told.append(usage)

    def record_failure(self, usage=None):
        self.told.append(usage)


async def test_the_payer_hears_how_every_attempt_ended():
    counter = Counter()
    current_attempts.set(counter)
    answer = await attempt_paid(failing(result=("text", Usage(3, 4))), translate)
    for failure in (VendorError(400), VendorError(503), BadRequest("ours"), KeyError()):
        with pytest.raises((BadRequest, Overloaded, KeyError)):
            await attempt_paid(failing(failure), translate)
    assert answer == "text"
    assert counter.told == [Usage(3, 4), FREE, None, None, None]


class Folder:
    """A bucket that counts its uploads, and loses the first answer."""

    def __init__(self):
        self.objects, self.uploads = {}, 0

    async def find_size(self, name):
        return len(self.objects[name]) if name in self.objects else None

    async def upload(self, name, path):
        self.uploads += 1
        self.objects[name] = path.read_bytes()
        if self.uploads == 1:
            raise VendorError(503)

    def locate(self, name):
        return f"bucket://data/{name}"


def to_line(example, number):
    return {"text": [message.content for message in example.messages]}


async def test_data_are_uploaded_once_for_all_jobs_that_need_them():
    bucket = Folder()
    uris = [
        await store_examples(bucket, make_caller(), spec, "training", to_line, 1000)
        for spec in (SPEC, SPEC, replace(SPEC, name="another job"))
    ]
    assert set(uris) == {f"bucket://data/{name_object(SPEC, 'training')}"}
    # The second upload replaced the same content with itself, since its answer was lost.
    assert bucket.uploads == 2
    assert list(bucket.objects.values()) == [b'{"text": ["1+1?", "2"]}\n']
    assert name_object(SPEC, "validation") != name_object(SPEC, "training")
    with pytest.raises(InvalidTrainingData, match="more than 5 bytes"):
        await store_examples(bucket, make_caller(), SPEC, "training", to_line, 5)


@pytest.mark.parametrize(
    "secret", ["ya29.a0AfB_byDeEf", "AIzaSyA0123456789", "AKIAIOSFODNN7EXAMPLE"]
)
def test_what_looks_like_a_key_of_a_cloud_is_hidden(secret):
    assert Secrets().scrub(f"the key {secret} is wrong") == f"the key {HIDDEN} is wrong"
    assert len(Secrets().quote(f"{'x ' * 500}{secret}")) == 401

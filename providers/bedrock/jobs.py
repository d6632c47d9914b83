"""Customization jobs of Bedrock: created once, found again by name, followed to their end.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_CreateModelCustomizationJob.html. A
job's name contains our digest and is unique in the account for ever, and the digest is the
request's token, so that a request that is sent again creates nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from providers.bedrock.bucket import TrainingFolder
from providers.bedrock.client import BedrockConnection
from providers.bedrock.errors import ConflictRefused, ResourceMissing
from providers.bedrock.job_format import (
    CustomizationRequest,
    build_job_request,
    build_name,
    estimate_progress,
    explain_failure,
    map_status,
    parse_losses,
    parse_validation,
)
from providers.bedrock.nova import NovaModel
from providers.bedrock.settings import BedrockSettings
from providers.calling import Caller, UnreadableAnswer, create_once
from providers.errors import (
    BadRequest,
    InvalidSettings,
    ModelNotFound,
    ProviderError,
    TrainingFailed,
    Unsupported,
)
from providers.types import FinetuneSpec, JobHandle, JobState, ModelRef

_METRICS = "training_artifacts/step_wise_training_metrics.csv"
_VALIDATION = "validation_artifacts/post_fine_tuning_validation/validation_metrics.csv"
_NO_METRICS = (
    "the bucket has no metrics file of this job that can be read, so there is no loss curve"
)


class CustomizationJobs:
    """The customization jobs of one account for one Nova model, at `address`.

    The methods mean what they mean in `providers.base.Provider`.

        jobs = CustomizationJobs(connection, settings, find_model(name), f"bedrock:{name}")
        handle = await jobs.find(spec) or await jobs.submit(spec)
    """

    def __init__(
        self,
        connection: BedrockConnection,
        settings: BedrockSettings,
        model: NovaModel,
        address: str,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._model = model
        self._address = address
        self._caller: Caller = connection.make_caller()
        self._folder = TrainingFolder(connection, self._caller, settings)
        self._unseen_until: dict[str, float] = {}

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Upload the data, unless they are there, then create the job.

        Raises `InvalidTrainingData`, `InvalidSettings`, `Unsupported` if the region has no such
        jobs, `AmbiguousSubmission` if it is unknown whether there is a job now, and other
        `RunError`s.
        """
        if missing := self._settings.missing_for_jobs:
            raise InvalidSettings("; ".join(missing))
        request = build_job_request(spec, self._model)
        training = await self._folder.store(spec, "training")
        validation = None
        if spec.validation:
            validation = await self._folder.store(spec, "validation")

        async def create() -> str:
            return await self._create(request, training, validation)

        try:
            arn = await create_once(
                self._caller, f"job {request.name}", create, self._settings.listing_lag_s
            )
        except ConflictRefused:
            # An earlier request of ours has created it, under this very name.
            found = await self.find(spec)
            if found is None:
                raise
            return found
        except ProviderError as error:
            raise self._explain_refusal(error, spec.name, training) from error
        self._unseen_until[arn] = time.monotonic() + self._settings.listing_lag_s
        return JobHandle(arn, spec.name, spec.digest)

    async def delete_model(self, model: str) -> None:
        """Delete a custom model by its ARN; nothing happens if there is none."""
        connection = self._connection
        with suppress(ResourceMissing):
            await self._caller.call_with_retry(
                lambda: connection.call(
                    connection.control.delete_custom_model, modelIdentifier=model
                )
            )

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job that was created for exactly this spec: its name contains the spec's digest."""
        try:
            job = await self._get(build_name(spec))
        except ResourceMissing:
            return None
        return JobHandle(str(job["jobArn"]), spec.name, spec.digest)

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state; with its end come the losses that it has written into the bucket.

        Raises `TrainingFailed` for a job that the account does not have, unless it was created just
        now.
        """
        try:
            job = await self._get(handle.job_id)
        except ResourceMissing as error:
            if time.monotonic() < self._unseen_until.get(handle.job_id, 0.0):
                return JobState("queued", "not seen yet")
            raise TrainingFailed(
                f"the account has no job {handle.job_id}; run again to make a new one"
            ) from error
        status, raw = map_status(job.get("status")), str(job.get("status"))
        if status == "failed":
            reason = self._caller.scrub(explain_failure(job))
            return JobState(status, raw, estimate_progress(job), error=reason)
        if status != "succeeded":
            return JobState(status, raw, estimate_progress(job))
        return await self._describe_success(handle, job, raw)

    async def cancel(self, handle: JobHandle) -> None:
        """Stop the job. A job that has ended, or that the account does not have, stays as it is."""
        connection = self._connection
        try:
            await self._caller.call_with_retry(
                lambda: connection.call(
                    connection.control.stop_model_customization_job, jobIdentifier=handle.job_id
                )
            )
        except ResourceMissing:
            return
        except BadRequest:
            # The job may have ended already, or be stopping.
            job = await self._get(handle.job_id)
            if map_status(job.get("status")) == "running" and job.get("status") != "Stopping":
                raise

    async def _create(
        self, request: CustomizationRequest, training: str, validation: str | None
    ) -> str:
        measured = {"validators": [{"s3Uri": validation}]} if validation else None
        answer = await self._connection.call(
            self._connection.control.create_model_customization_job,
            jobName=request.name,
            customModelName=request.name,
            roleArn=self._settings.role_arn,
            clientRequestToken=request.token,
            baseModelIdentifier=request.base,
            customizationType="FINE_TUNING",
            trainingDataConfig={"s3Uri": training},
            outputDataConfig={"s3Uri": self._folder.output_uri},
            hyperParameters=dict(request.hyperparameters),
            **({"validationDataConfig": measured} if measured else {}),
        )
        arn = answer.get("jobArn")
        if not arn:
            raise UnreadableAnswer("Bedrock created a job and did not name it")
        return str(arn)

    async def _get(self, identifier: str) -> dict[str, Any]:
        connection = self._connection
        return await self._caller.call_with_retry(
            lambda: connection.call(
                connection.control.get_model_customization_job, jobIdentifier=identifier
            )
        )

    async def _describe_success(self, handle: JobHandle, job: dict[str, Any], raw: str) -> JobState:
        arn = job.get("outputModelArn") or await self._find_model_arn(str(job["outputModelName"]))
        output = str((job.get("outputDataConfig") or {}).get("s3Uri") or "").rstrip("/")
        folder = f"{output}/model-customization-job-{handle.job_id.rsplit('/', 1)[-1]}"
        losses, measured, note = "", "", None
        try:
            losses = await self._folder.read_text(f"{folder}/{_METRICS}") or ""
            if (job.get("validationDataConfig") or {}).get("validators"):
                measured = await self._folder.read_text(f"{folder}/{_VALIDATION}") or ""
        # The model is there whether or not its loss curve can be read.
        except ProviderError:
            note = _NO_METRICS
        points = parse_losses(losses)
        return JobState(
            "succeeded",
            raw,
            progress=1.0,
            model=ModelRef(handle.name, self._address, str(arn)),
            points=points,
            checkpoints=parse_validation(measured),
            note=note or (None if points else _NO_METRICS),
        )

    async def _find_model_arn(self, name: str) -> str:
        connection = self._connection
        model = await self._caller.call_with_retry(
            lambda: connection.call(connection.control.get_custom_model, modelIdentifier=name)
        )
        return str(model["modelArn"])

    def _explain_refusal(self, error: ProviderError, name: str, training: str) -> ProviderError:
        """What a clear refusal of a new job means."""
        where = ", ".join(self._model.regions)
        if isinstance(error, ResourceMissing | ModelNotFound):
            return Unsupported(
                f"region {self._connection.region} has no customization jobs for "
                f"{self._model.tuning_id} ({error}); set region in [provider] to one of: {where}"
            )
        if type(error) is BadRequest:
            return BadRequest(f"job {name} was refused: {error} [training file {training}]")
        return error

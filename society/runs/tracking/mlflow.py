"""MLflow: a server or a database, wherever MLFLOW_TRACKING_URI says, by its own client.

https://mlflow.org/docs/latest/ml/tracking
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from society.runs.tracking.tracker import TrackedValue, TrackerTarget

# The most that one request of `log_batch` may have.
_METRICS, _PARAMS = 1000, 100
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflowTracker:
    """Settings become parameters, figures become metrics over the step of their own axis."""

    def __init__(self) -> None:
        # By default a missing server is asked for many minutes.
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        self._client = MlflowClient()
        self._run_id = ""

    def open(self, target: TrackerTarget) -> str:
        """Create a run in the experiment `project`, or go on with the run that there is."""
        if target.tracker_run_id is None:
            run = self._client.create_run(
                self._find_experiment(target.project), None, None, target.name
            )
            self._run_id = run.info.run_id
            self._log_parameters(target.parameters)
        else:
            self._run_id = target.tracker_run_id
            stored = self._client.get_run(self._run_id).data.params
            self._client.update_run(self._run_id, "RUNNING")
            self._log_parameters(
                {key: v for key, v in target.parameters.items() if key not in stored}
            )
            # A parameter of MLflow never changes, so a setting that did becomes a tag.
            for key, value in target.parameters.items():
                if stored.get(key, value) != value:
                    self._client.set_tag(self._run_id, f"now.{key}", value)
        return self._run_id

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Log the figures as metrics."""
        now = int(time.time() * 1000)
        rest = iter([Metric(f.name, f.value, now, f.step) for f in figures])
        while part := list(islice(rest, _METRICS)):
            self._client.log_batch(self._run_id, metrics=part)

    def close(self, *, finished: bool) -> None:
        """Say whether the run is over; one that was stopped goes on when it is started again."""
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")

    def _find_experiment(self, project: str) -> str:
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
        found = self._client.get_experiment_by_name(project)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(project))
        # Runs of one sweep start at the same time, and another one may have created it just now.
        except MlflowException:
            found = self._client.get_experiment_by_name(project)
            if found is None:
                raise
            return str(found.experiment_id)

    def _log_parameters(self, parameters: Mapping[str, str]) -> None:
        rest = iter([Param(key, value) for key, value in parameters.items()])
        while part := list(islice(rest, _PARAMS)):
            self._client.log_batch(self._run_id, params=part)


def create() -> MLflowTracker:
    """A tracker that is not open yet."""
    return MLflowTracker()

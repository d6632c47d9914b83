"""Trackers: a run's figures are logged to Trackio, W&B, MLflow and TensorBoard while it goes on.

`session` follows a run: whenever a part of an iteration is stored for good, it reads the `figures`
from the run's database and hands them to each tracker. A tracker's package runs in a process of its
own (`process`, `worker`), so that its failures, hangs and prints stay there.
"""

"""The built-in base model: a tiny chat model for one arithmetic task, shipped with the package."""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"

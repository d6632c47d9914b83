"""Tuned models of a run as files for other programs: `society export NAME --model FORM`.

- adapters: PEFT folders, a script that serves the base with all of them, and recipes that merge
  them into one model;
- merged: whole models, base and adapter in one;
- gguf: a file for each model, with what an engine needs to ask it as it was trained.

Each has a card: what it was trained on, its measured accuracy, the base's licence, its hash.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from providers import registry
from providers.artifact import MANIFEST, verify
from providers.base import BaseOrigin, Provider
from providers.shipping.merge_recipe import (
    MERGEKIT_RECIPE,
    PEFT_RECIPE,
    write_mergekit_recipe,
    write_peft_recipe,
)
from providers.shipping.start_line import START_SCRIPT, write_start_script
from society.config.load import ConfigError
from society.exporting.model_card import describe_models, write_model_card
from society.exporting.model_choice import (
    ExportedModel,
    ExportedSociety,
    ModelChoice,
    choose_models,
)
from society.exporting.reading import open_readable
from society.exporting.staging import check_free, stage_files
from society.runs.folder import RunFolder
from society.runs.tuned_models import is_local

Form = Literal["adapters", "merged", "gguf"]

_ADAPTER_CONFIG = "adapter_config.json"
FACTS = "society.json"


def export_models(
    folder: RunFolder,
    form: Form,
    out: Path,
    choice: ModelChoice,
    tell: Callable[[str], None] = lambda text: None,
    *,
    force: bool = False,
) -> list[Path]:
    """Write the chosen models into the folder `out`; returns the files and folders at its top.

    A single model fills `out` itself; several have folders of their own in it. `tell` gets a line
    for each model. Raises `ConfigError`, the provider's errors, and `WriteFailed`; an error leaves
    nothing behind.

        export_models(folder, "adapters", Path("out"), ModelChoice(role="generator"))
    """
    with open_readable(folder.database) as store:
        society = choose_models(store, choice)
        writer = _Writer(folder, society, form, tell)
        # Before the first weight is read: merging and converting take minutes.
        writer.check()
        check_free(out, writer.list_names(), force)
        with stage_files(out) as stage:
            asyncio.run(writer.write(stage))
            # The store is still the moment that the models were chosen in.
            facts = describe_models(store, society)
            (stage / "README.md").write_text(
                write_model_card(store, society, facts, form), encoding="utf-8"
            )
            for each in writer.subfolders(stage):
                own = [fact for fact in facts if fact["name"] == each.name]
                card = write_model_card(store, society, own, form)
                (each / "README.md").write_text(card, encoding="utf-8")
            _write_facts(stage / FACTS, society, facts, form)
    return sorted(out / name for name in writer.list_names())


class _Writer:
    """Writes the models of one form into a folder."""

    def __init__(
        self, folder: RunFolder, society: ExportedSociety, form: Form, tell: Callable[[str], None]
    ) -> None:
        self._folder, self._society, self._form, self._tell = folder, society, form, tell
        self._alone = len(society.models) == 1
        self._provider: Provider | None = None

    def check(self) -> None:
        """Raise what can be known before anything is written."""
        if self._form == "gguf":
            from providers.shipping.gguf_converter import find_converter

            self._converter = find_converter(os.environ)
        method = self._society.config.for_arm(self._society.arm).finetune.method
        if self._form == "adapters" and method != "lora":
            raise ConfigError(
                f"finetune.method = {method!r} has made whole models and no adapters; export "
                "--model merged"
            )

    def list_names(self) -> list[str]:
        """What will stand at the top of the folder, as far as it is known."""
        names = ["README.md", FACTS]
        if self._form == "gguf":
            return names + [
                f"{each.name}{suffix}"
                for each in self._society.models
                for suffix in (".gguf", ".Modelfile")
            ]
        # A whole model's own files differ by architecture; its folder must be empty or forced.
        if not self._alone:
            names += [each.name for each in self._society.models]
        elif self._form == "adapters":
            names += [_ADAPTER_CONFIG, "adapter_model.safetensors"]
        if self._form == "adapters":
            names += [START_SCRIPT, *(() if self._alone else (PEFT_RECIPE, MERGEKIT_RECIPE))]
        return names

    def subfolders(self, stage: Path) -> list[Path]:
        """The folders of single models, if there are several."""
        return [path for path in sorted(stage.iterdir()) if path.is_dir()]

    async def write(self, stage: Path) -> None:
        """Write every model, then what belongs to all of them."""
        async with AsyncExitStack() as stack:
            for each in self._society.models:
                self._tell(f"{each.name}: {self._form}")
                await self._write_model(stack, each, stage)
        if self._form == "adapters":
            self._write_lines(stage)

    async def _write_model(self, stack: AsyncExitStack, each: ExportedModel, stage: Path) -> None:
        place = stage if self._alone else stage / each.name
        match self._form:
            case "adapters":
                place.mkdir(exist_ok=True)
                await self._write_adapter(stack, each, place)
            case "merged":
                place.mkdir(exist_ok=True)
                await self._connect(stack).merge_model(each.ref, place)
            case "gguf":
                # On the disk that holds the files, since a temporary folder may be in memory.
                whole = stage / f"{each.name}.whole"
                whole.mkdir()
                await self._connect(stack).merge_model(each.ref, whole)
                await asyncio.to_thread(self._convert, each, whole, stage)
                shutil.rmtree(whole)

    async def _write_adapter(self, stack: AsyncExitStack, each: ExportedModel, place: Path) -> None:
        if is_local(each.model):
            source = self._folder.models / str(each.model.artifact)
            # What is published must be what was measured.
            verify(source, each.model.sha256)
            _copy_files(source, place)
        else:
            fetched = place / ".fetched"
            await self._connect(stack).download_model(each.ref, fetched)
            _copy_files(fetched, place)
            shutil.rmtree(fetched)
        _name_base(place / _ADAPTER_CONFIG, self._society.origin)

    def _connect(self, stack: AsyncExitStack) -> Provider:
        """The provider of the models, opened when something is asked of it for the first time:
        copying files needs none."""
        if self._provider is None:
            address = self._society.models[0].model.provider
            settings = self._society.config.settings_of(address)
            self._provider = registry.connect(address, settings, self._folder.models)
            stack.push_async_callback(self._provider.close)
        return self._provider

    def _convert(self, each: ExportedModel, whole: Path, stage: Path) -> None:
        from providers.shipping.chat_format import read_turns
        from providers.shipping.gguf_converter import convert_to_gguf, read_type
        from providers.shipping.modelfile import write_modelfile

        file = f"{each.name}.gguf"
        convert_to_gguf(self._converter, whole, stage / file, read_type(whole))
        # Rendered as the run rendered it, or the model is asked what it was not trained on.
        settings = self._society.config.settings_of(each.model.provider)
        turns, stops = read_turns(whole, settings.get("chat_template_kwargs") or {})
        text = write_modelfile(file, turns, dict(self._society.config.sampling), stops)
        (stage / f"{each.name}.Modelfile").write_text(text, encoding="utf-8")

    def _write_lines(self, stage: Path) -> None:
        names = [each.name for each in self._society.models]
        base = self._society.origin.name
        folders = {names[0]: "."} if self._alone else {name: name for name in names}
        arm = self._society.config.for_arm(self._society.arm).finetune
        rank = max(arm.hyperparameters(each.role).lora_rank for each in self._society.models)
        script = stage / START_SCRIPT
        script.write_text(write_start_script(base, folders, rank), encoding="utf-8")
        script.chmod(0o755)
        # One adapter has nothing to be merged with.
        if not self._alone:
            recipe = write_mergekit_recipe(base, names)
            (stage / PEFT_RECIPE).write_text(write_peft_recipe(base, names), encoding="utf-8")
            (stage / MERGEKIT_RECIPE).write_text(recipe, encoding="utf-8")


def _copy_files(source: Path, place: Path) -> None:
    for path in source.iterdir():
        # The manifest describes the run's own folder, whose configuration is another one.
        if path.is_file() and path.name != MANIFEST:
            shutil.copy2(path, place / path.name)


def _name_base(path: Path, origin: BaseOrigin) -> None:
    """Let an adapter's configuration name the base as others find it."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = origin.name
    config["revision"] = origin.revision
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_facts(
    path: Path, society: ExportedSociety, facts: Sequence[dict[str, object]], form: Form
) -> None:
    """What the card says, for programs."""
    content = {
        "run": society.run,
        "arm": society.arm,
        "iteration": society.iteration,
        "form": form,
        "base": society.origin.name,
        "base_revision": society.origin.revision,
        "base_license": society.origin.license,
        "models": list(facts),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

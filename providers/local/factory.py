"""What the registry calls for `local:` addresses.

Importing this module and checking an address load neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from providers.base import BaseOrigin, BaseWeights, FileFacts, Provider, ProviderFactory, Settings
from providers.cluster.settings import ClusterSettings
from providers.errors import InvalidSettings
from providers.local import generation_config
from providers.local.machine import guess_dtype_bytes
from providers.local.placement import runs_on_cpu
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Finding, Hyperparameters, Need, PreflightReport

# How much is computed at a time does not change an answer.
_NO_EFFECT_ON_ANSWERS = ("max_batch_size", "max_batch_tokens", "full_models", "training_workers")
# Where a part waits does not either: it computes on a graphics card if there is one.
_PLACES = ("device_map", "max_memory", "offload_folder")


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for every fault that shows without loading."""
    locate_model(target, LocalSettings.read(settings))


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; a resumed run must not change them.

    Of `device` only the kind counts: two graphics cards of one machine answer alike.
    """
    kept = {name: value for name, value in settings.items() if name not in _NO_EFFECT_ON_ANSWERS}
    # How many adapters share a pass does not change what they learn; whether they do may, by a bit.
    if kept.get("joint_training", "off") != "off":
        del kept["joint_training"]
    if "device" in kept:
        kept["device"] = str(kept["device"]).partition(":")[0]
    plan = kept.get("device_map")
    if isinstance(plan, dict) and runs_on_cpu(plan):
        kept["device"] = "cpu"
    return {name: value for name, value in kept.items() if name not in _PLACES}


def connect(
    target: str, settings: Settings, workdir: Path, cluster: ClusterSettings | None = None
) -> Provider:
    """Open the model at `target`; its weights are loaded at the first request.

    ```python
    provider = connect("./my-model", {"device": "cpu"}, Path("runs/try/models"))
    ```
    """
    return open_model(f"local:{target}", target, settings, workdir, cluster)


def open_model(
    address: str,
    target: str,
    settings: Settings,
    workdir: Path,
    cluster: ClusterSettings | None = None,
) -> Provider:
    """Open the model at `target` under another scheme's `address`, such as "embedded:"."""
    from providers.local.provider import LocalProvider

    options = LocalSettings.read(settings)
    return LocalProvider(address, locate_model(target, options), options, workdir, cluster)


def preflight(
    target: str, settings: Settings, need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """What the files say about the model at `target`; loads nothing."""
    from providers.local.preflight import preflight_files

    return preflight_files(target, settings, need, hyperparameters)


def preflight_cluster(
    target: str,
    settings: Settings,
    cluster: ClusterSettings,
    workdir: Path,
    hyperparameters: Hyperparameters,
) -> Sequence[Finding]:
    """What of the model's training runs where on a cluster, and what does not fit."""
    from providers.local.cluster_preflight import preflight_nodes

    options = LocalSettings.read(settings)
    return preflight_nodes(
        locate_model(target, options), options, cluster, workdir, hyperparameters
    )


def read_sampling(target: str, settings: Settings) -> Mapping[str, object]:
    """How the model's own files say that answers are drawn."""
    return generation_config.read_sampling(locate_model(target, LocalSettings.read(settings)))


def read_facts(target: str, settings: Settings) -> FileFacts:
    """What the model's own files say of context and thoughts."""
    from providers.local.preflight import read_file_facts

    return read_file_facts(target, settings)


def find_origin(target: str, settings: Settings) -> BaseOrigin:
    """The model's name on the hub, or its folder, and the licence that its card names."""
    from providers.local.origin import find_origin

    return find_origin(locate_model(target, LocalSettings.read(settings)))


def write_trial_adapter(
    target: str, settings: Settings, hyperparameters: Hyperparameters, folder: Path
) -> None:
    """Write an untrained adapter for the model at `target`, whose weights are not loaded."""
    from providers.local.trial_adapters import write_adapter_by_config

    options = LocalSettings.read(settings)
    write_adapter_by_config(locate_model(target, options), options, hyperparameters, folder)


def locate_weights(target: str, settings: Settings) -> BaseWeights:
    """The model's folder or hub name, and the number type that its answers are computed in."""
    options = LocalSettings.read(settings)
    source = locate_model(target, options)
    for name in ("gguf_file", "quantization"):
        if value := getattr(options, name) or getattr(source, name, None):
            raise InvalidSettings(
                f"[provider] {name} = {value!r}: a server that is started for the run would answer "
                "with other weights than are trained; leave [serving] out, or take the model "
                "unquantized, from a folder of save_pretrained"
            )
    if options.trust_remote_code:
        raise InvalidSettings(
            "[provider] trust_remote_code = true: the code of the model is run by transformers, "
            "not by a server; leave [serving] out"
        )
    guessed = "bfloat16" if guess_dtype_bytes(options) == 2 else "float32"
    name = str(Path(source.name).resolve()) if source.local else source.name
    dtype = guessed if options.dtype == "auto" else options.dtype
    return BaseWeights(name, dtype, source.revision)


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=output_settings,
    preflight=preflight,
    read_sampling=read_sampling,
    read_facts=read_facts,
    settings=LocalSettings,
    locate_weights=locate_weights,
    find_origin=find_origin,
    connect_cluster=connect,
    preflight_cluster=preflight_cluster,
    write_trial_adapter=write_trial_adapter,
)

"""What kind of model a config.json describes, and whether such a model can hold a conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.errors import InvalidSettings

# Heads that say something about a text instead of continuing it.
_OTHER_TASK = re.compile(
    r"For(Masked(LM|ImageModeling)|PreTraining|SequenceClassification|TokenClassification"
    r"|QuestionAnswering|MultipleChoice|NextSentencePrediction|ImageClassification|CTC"
    r"|SpeechSeq2Seq|RewardModeling)$"
)
_REMEDY = "take a model whose config.json names a class that ends in ForCausalLM"
TRUST_REMEDY = (
    "read that code, then set trust_remote_code = true in [provider], or take a model that "
    "transformers has itself"
)
_CAUSAL = "AutoModelForCausalLM"
# Families whose class for texts alone cannot read the weights of a whole model.
_WHOLE_TYPES = ("emu3",)
# Models that also speak, as Qwen-Omni, have the one that writes as a part.
_WRITER = "thinker_config"


def refuse_other_tasks(config: Mapping[str, Any], name: str) -> None:
    """Raise `InvalidSettings` if the model of a config.json does not continue texts.

    ```python
    refuse_other_tasks({"architectures": ["BertForMaskedLM"]}, "./my-bert")  # raises
    ```
    """
    classes = [each for each in config.get("architectures") or () if isinstance(each, str)]
    said = " or ".join(classes) or f"model of type {config.get('model_type')!r}"
    if config.get("is_encoder_decoder"):
        raise InvalidSettings(
            f"the model {name!r} is a {said}, an encoder-decoder: it turns one text into another "
            f"and does not continue a conversation; {_REMEDY}"
        )
    if classes and all(map(_OTHER_TASK.search, classes)):
        raise InvalidSettings(
            f"the model {name!r} is a {said}: it fills gaps or judges a text, but cannot write "
            f"one; {_REMEDY}"
        )


def refuse_foreign_code(config: Mapping[str, Any], name: str, trusted: bool) -> None:
    """Raise `InvalidSettings` if the model needs Python code of its own that is not `trusted`.

    Many models carry code from before transformers had them; they need none of it.
    """
    code = config.get("auto_map")
    if trusted or not isinstance(code, dict) or is_known(str(config.get("model_type"))):
        return
    files = sorted({str(value).rpartition(".")[0] + ".py" for value in code.values()})
    raise InvalidSettings(
        f"the model {name!r} (type {config.get('model_type')!r}) is not in transformers and brings "
        f"Python code of its own ({', '.join(files)}), which would run on this machine; "
        f"{TRUST_REMEDY}"
    )


def is_known(model_type: str) -> bool:
    """Whether transformers itself has a class that answers for this `model_type`."""
    # These tables name classes; they import transformers, but neither torch nor a model.
    from transformers.models.auto import modeling_auto

    tables: Any = modeling_auto
    return (
        model_type in tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or model_type in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    )


def find_text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the model of texts: all of it if it has no parts."""
    for name in (_WRITER, "text_config"):
        nested = config.get(name)
        config = nested if isinstance(nested, Mapping) else config
    return config


def find_writer(config: Any) -> Any:
    """The config of the part that writes texts, in a model that also speaks; else `config`."""
    return getattr(config, _WRITER, None) or config


def choose_auto_class(config: Any, name: str, trusted: bool) -> Any:
    """The auto class of transformers that loads a model of this config for texts.

    Models of images and texts are loaded whole where their text part is no class of its own.
    Raises `InvalidSettings` if no class answers.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    tables: Any = modeling_auto
    if type(config) in tables.MODEL_FOR_CAUSAL_LM_MAPPING and config.model_type not in _WHOLE_TYPES:
        return transformers.AutoModelForCausalLM
    code = getattr(config, "auto_map", None) or {}
    if trusted and _CAUSAL in code:
        return transformers.AutoModelForCausalLM
    if type(config) in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    refuse_other_tasks(config.to_dict(), name)
    raise InvalidSettings(
        f"the model {name!r} has the type {config.model_type!r}, for which transformers "
        f"{transformers.__version__} has no class that continues a text; {_REMEDY}, or update "
        "transformers"
    )

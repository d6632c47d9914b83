"""The templates of known families: prompts as sent and as trained, ends, dates, hidden prompts."""

import asyncio

import pytest

from providers.local.backbone import Backbone
from providers.local.conversation import encode_example, encode_prompt, find_ends, find_part_ends
from providers.local.factory import connect
from providers.local.plans import read_context
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
    Sampling,
)
from tests.providers.published_templates import (
    FAMILIES,
    make_family_tokenizer,
    save_family_model,
)
from tests.providers.training_fixtures import CHATML, PLAIN, make_tokenizer

SETTINGS = LocalSettings(device="cpu", threads=1)
SYSTEM = Message("system", "Be careful.")
DEBATE = (
    Message("user", "What is 1+2?"),
    Message("assistant", "The sum is 3."),
    Message("user", "Another agent says: 4. What is your answer?"),
    Message("assistant", "It is 3."),
)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family):
    return make_family_tokenizer(family)


@pytest.mark.parametrize("before", [(), (SYSTEM,)], ids=["plain", "system"])
@pytest.mark.parametrize("last", [1, 3])
def test_the_trained_prompt_is_the_sent_one_and_the_end_is_learnt(family, tokenizer, before, last):
    messages = (*before, *DEBATE[: last + 1])
    prompt = encode_prompt(tokenizer, messages[:-1])
    example = encode_example(tokenizer, Example(messages, (len(messages) - 1,)))
    assert example.token_ids[: len(prompt)] == prompt
    taught = example.token_ids[len(prompt) :]
    assert tokenizer.convert_ids_to_tokens(taught[-1]) == FAMILIES[family].end
    assert taught[-1] in find_ends(tokenizer)
    assert tokenizer.decode(taught[:-1]).endswith(DEBATE[last].content)


def test_the_beginning_of_sequence_is_set_once(family, tokenizer):
    bos = FAMILIES[family].bos
    # The tokenizer itself would set it before a text, and most templates do.
    assert bos is None or tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    text = tokenizer.decode(encode_prompt(tokenizer, DEBATE[:1]))
    in_template = bos is not None and family != "gpt_oss"
    assert text.count(bos or "<bos>") == in_template


def test_ends_are_those_of_template_and_tokenizer(family, tokenizer):
    known = FAMILIES[family]
    ends = {known.end, known.eos} | ({"<|call|>"} if family == "gpt_oss" else set())
    assert set(tokenizer.convert_ids_to_tokens(list(find_ends(tokenizer)))) == ends


def test_a_token_that_ends_the_thoughts_ends_no_answer():
    tokenizer = make_family_tokenizer("gpt_oss")
    inside = tokenizer.convert_ids_to_tokens(list(find_part_ends(tokenizer)))
    assert set(inside) == {"<|end|>", "<|start|>", "<|channel|>", "<|message|>"}
    assert find_part_ends(make_family_tokenizer("llama3_2")) == frozenset()
    assert find_part_ends(make_tokenizer(CHATML)) == frozenset()


def test_an_answer_in_channels_is_taught_as_it_was_sampled():
    tokenizer = make_family_tokenizer("gpt_oss")
    sampled = (
        "<|channel|>analysis<|message|>1+2 is 3.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>The sum is 3."
    )
    messages = (DEBATE[0], Message("assistant", sampled))
    prompt = encode_prompt(tokenizer, messages[:1])
    example = encode_example(tokenizer, Example(messages, (1,)))
    assert example.token_ids[: len(prompt)] == prompt
    assert tokenizer.decode(example.token_ids[len(prompt) :]) == sampled + "<|return|>"


def test_a_template_without_ends_leaves_the_end_of_sequence():
    tokenizer = make_tokenizer(PLAIN)
    assert find_ends(tokenizer) == {tokenizer.eos_token_id}
    tokenizer.eos_token = None
    assert find_ends(tokenizer) == frozenset()


@pytest.fixture(scope="module")
def qwen_base(tmp_path_factory):
    """A tiny base model whose template ends turns with another token than its end of sequence."""
    return save_family_model(
        tmp_path_factory.mktemp("qwen"),
        "qwen2_5",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        max_position_embeddings=256,
    )


def test_a_base_stops_at_the_end_of_turns_before_it_is_tuned(qwen_base):
    backbone = Backbone(locate_model(str(qwen_base), SETTINGS), SETTINGS)
    names = backbone.tokenizer.convert_ids_to_tokens(list(backbone.ends))
    assert set(names) == {"<|im_end|>", "<|endoftext|>"}


async def test_a_tuned_base_stops_where_it_was_taught_to(qwen_base, tmp_path):
    question = (Message("user", "Hi"),)
    example = Example((*question, Message("assistant", "42")), (1,))
    settings = Hyperparameters(epochs=100, batch_size=4, learning_rate=3e-3, lora_rank=32)
    provider = connect(str(qwen_base), {"threads": 1, "device": "cpu"}, tmp_path)
    spec = FinetuneSpec("tuned", provider.base, [example] * 4, "0" * 64, settings)
    handle = await provider.submit(spec)
    for _ in range(1000):
        state = await provider.poll(handle)
        if state.done:
            break
        await asyncio.sleep(0.05)
    assert state.model is not None, state.error
    model = ModelRef("tuned", provider.base.address, state.model.artifact)
    greedy = Sampling(temperature=0.0, max_tokens=40)
    answer = await provider.complete(Request(model, question, greedy, "k"))
    await provider.close()
    assert (answer.text, answer.finish_reason) == ("42", "stop")
    assert answer.completion_tokens == len("42") + 1


def test_the_context_is_the_length_that_the_rope_is_stretched_to():
    from transformers import LlamaConfig, MambaConfig, XLNetConfig

    def read(length, **rope):
        return read_context(
            LlamaConfig(max_position_embeddings=length, rope_parameters={"rope_theta": 1e4, **rope})
        )

    assert read(2048, rope_type="default") == 2048
    assert read(2048, rope_type="dynamic", factor=4.0) == 8192
    # Qwen2.5 states the original length, DeepSeek the stretched one.
    yarn = {"rope_type": "yarn", "factor": 4.0}
    assert read(32768, **yarn, original_max_position_embeddings=32768) == 131072
    assert read(131072, **yarn, original_max_position_embeddings=32768) == 131072
    assert read_context(MambaConfig()) is None
    assert read_context(XLNetConfig()) is None


def test_a_model_and_a_tokenizer_without_a_limit_leave_a_number_that_counts(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = make_family_tokenizer("qwen2_5")
    tokenizer.save_pretrained(tmp_path)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4
    )
    MambaForCausalLM(config).save_pretrained(tmp_path)
    backbone = Backbone(locate_model(str(tmp_path), SETTINGS), SETTINGS)
    assert backbone.tokenizer.model_max_length > 10**29
    assert 10**9 < backbone.context < 2**31

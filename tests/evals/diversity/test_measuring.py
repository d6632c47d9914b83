"""Likelihoods and divergences: real models against transformers, and what cannot be had."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import permutations
from statistics import fmean, stdev

import pytest

from evals.diversity import Cache, DiversityOptions, Measurement
from providers import registry
from providers.errors import ContextOverflow, TimedOut, Unsupported
from providers.scripted import ScriptedProvider
from providers.types import (
    Capabilities,
    Divergence,
    Message,
    ModelRef,
    Request,
    Sampling,
    Score,
)
from store.records import StageKey
from tests.evals.diversity.conftest import AGREES, SAID

STAGE = StageKey(1, "eval", "multiagent")
GREEDY = StageKey(1, "eval", "multiagent", "greedy")
ALL = ("nll", "kl", "kl_base")


def own(address: str, agents: int = 3) -> list[tuple[str, str, str | None]]:
    """A tuned model per agent."""
    return [(f"m{agent}", address, f"a{agent}") for agent in range(1, agents + 1)]


def untuned(address: str, agents: int = 3) -> list[tuple[str, str, str | None]]:
    return [(address, address, None)] * agents


class Told(ScriptedProvider):
    """Tells log-probabilities that follow from model and text; counts what it is asked."""

    def __init__(self, address: str = "told:", *, score: bool = True, compare: bool = False):
        super().__init__(lambda request: "", address=address)
        self._able = Capabilities(True, score, False, divergences=compare)
        self.asked: list[tuple[str, str]] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._able

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        self.asked.append((model.model_id, text))
        shift = (model.artifact is not None) * int((model.artifact or "a0")[1:])
        return Score(tuple(map(ord, text)), tuple(-1.0 - shift / 4 for _ in text))

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        self.asked.append((p.model_id, text))
        return [Divergence((1,) * len(text), (0.5,) * len(text)) for _ in others]


async def measured(store, provider, stage=STAGE, **wanted):
    """Rows by (role, measure, responses)."""
    settings = DiversityOptions(**{"measures": ALL, **wanted})
    providers = {one.base.address: one for one in ([provider] if not isinstance(provider, list)
                                                   else provider)}  # fmt: skip
    found = await Measurement(store, providers, stage, "sums", settings, Cache()).carry_out()
    return {(row.role, row.measure, row.responses): row for row in found}


@pytest.fixture
async def embedded(tuned):
    provider = registry.connect("embedded:", {}, tuned)
    yield provider
    await provider.close()


@pytest.fixture
def directly(tuned):
    """Log-probabilities over the vocabulary at every token of a text, by transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from providers.embedded import MODEL_DIR

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)

    def load(name: str):
        base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        return (PeftModel.from_pretrained(base, tuned / name) if name else base).eval()

    models = {name: load(name) for name in ("", "a1", "a2", "a3")}

    def logprobs(name: str, question: str, text: str):
        turns = [{"role": "user", "content": f"What is {question}?"}]
        opened = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(opened, add_special_tokens=False)["input_ids"]
        answer = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = models[name](torch.tensor([prompt + answer])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1), answer

    return logprobs


async def test_nll_and_kl_equal_a_direct_computation(debated, embedded, directly):
    found = await measured(debated([own("embedded:"), own("embedded:")]), embedded)

    def nll(question, text, model):
        rows, answer = directly(model, question, text)
        return -fmean(rows[range(len(answer)), answer].tolist())

    def kl(question, text, p, q):
        one, two = directly(p, question, text)[0], directly(q, question, text)[0]
        return float((one.exp() * (one - two)).sum(-1).mean())

    for responses in ("all", "agreeing"):
        expected: dict[str, list[float]] = {measure: [] for measure in ALL}
        for question, texts in SAID.items():
            kept = [n for n in range(3) if responses == "all" or AGREES[question][n]]
            pairs = list(permutations(kept, 2))
            own_pairs = [(m, None) for m in kept]
            values = {
                "nll": [nll(question, texts[m], f"a{n + 1}") for m, n in pairs],
                "kl": [kl(question, texts[m], f"a{m + 1}", f"a{n + 1}") for m, n in pairs],
                "kl_base": [kl(question, texts[m], f"a{m + 1}", "") for m, _ in own_pairs],
            }
            for measure, some in values.items():
                if some:
                    expected[measure].append(fmean(some))
        for role in ("generator", "critic"):
            for measure in ALL:
                row = found[role, measure, responses]
                assert row.value == pytest.approx(fmean(expected[measure]), abs=1e-4)
                assert row.questions == len(expected[measure])
                assert row.value > 0.01
                assert row.note is None
                assert row.low is not None
                assert row.low <= row.value <= row.high
    assert found["generator", "nll", "all"].pairs == 18
    assert found["generator", "kl", "agreeing"].pairs == 2 + 6
    assert found["generator", "kl_base", "agreeing"].pairs == 2 + 3 + 1
    assert {row.encoder for (_, measure, _), row in found.items() if measure != "nll"} == {"exact"}


async def test_equal_models_have_no_divergence_and_are_not_asked(debated):
    provider = Told(compare=True)
    found = await measured(debated([untuned("told:")]), provider)
    assert {role for role, *_ in found} == {"generator"}
    for measure in ("kl", "kl_base"):
        row = found["generator", measure, "all"]
        assert (row.value, row.low, row.high, row.note) == (0.0, 0.0, 0.0, None)
    # The NLL of a text under the one model is asked once, though two agents hold it.
    texts = {(question, text) for question, said in SAID.items() for text in said}
    assert sorted(provider.asked) == sorted(("told:", text) for _, text in texts)


async def test_without_log_probabilities_there_is_a_reason_and_no_number(debated):
    provider = Told(score=False)
    found = await measured(debated([own("told:"), own("told:")]), provider)
    assert len(found) == 12
    for row in found.values():
        assert (row.value, row.low, row.high, row.questions, row.pairs) == (None, None, None, 0, 0)
        assert "gives no log-probabilities of a given text" in str(row.note)
    equal = await measured(debated([untuned("told:")]), provider)
    assert equal["generator", "nll", "all"].value is None
    assert equal["generator", "kl", "all"].value == 0.0
    assert provider.asked == []


async def test_from_probabilities_of_texts_a_divergence_is_estimated(debated):
    found = await measured(debated([own("told:")]), Told(), drawn="temperature 0.6, top_p 1")
    row = found["generator", "kl_base", "all"]
    # log p − log q is −n/4 for agent n, whose model finds its texts less likely than the base.
    assert row.value == pytest.approx(-fmean([1, 2, 3]) / 4)
    assert row.encoder == "sampled"
    assert row.low <= row.value
    assert "estimated from the sampled texts" in row.note
    assert "drawn with temperature 0.6, top_p 1" in row.note
    assert found["generator", "kl", "all"].value == pytest.approx(0.0)
    assert found["generator", "nll", "all"].value == pytest.approx(1 + 2 / 4)
    assert found["generator", "nll", "all"].note is None


async def test_greedy_answers_are_no_sample(debated):
    found = await measured(debated([own("told:")], decoding="greedy"), Told(), GREEDY)
    assert found["generator", "kl", "all"].value is None
    assert "greedy answers are no sample" in found["generator", "kl", "all"].note
    assert found["generator", "nll", "all"].value is not None
    exact = await measured(debated([own("told:")], decoding="greedy"), Told(compare=True), GREEDY)
    assert exact["generator", "kl", "all"].value == 0.5


async def test_a_server_that_turns_out_unable_leaves_a_reason(debated):
    class Unable(Told):
        async def score(self, model, messages, text):
            raise Unsupported("the server of x gives no prompt_logprobs, so it is no vLLM")

    found = await measured(debated([own("told:")]), Unable())
    assert {row.value for row in found.values()} == {None}
    assert "it is no vLLM" in found["generator", "nll", "all"].note


async def test_what_is_refused_is_left_out_and_counted(debated):
    class Short(Told):
        async def score(self, model, messages, text):
            if len(text) > 20:
                raise ContextOverflow("too long")
            return await super().score(model, messages, text)

    row = (await measured(debated([own("told:")]), Short()))["generator", "nll", "all"]
    assert (row.questions, row.pairs) == (3, 12)
    assert row.note == "6 of 18 pairs were refused by the provider, left out"


async def test_other_errors_stop_it_and_nothing_is_stored(debated):
    class Slow(Told):
        async def score(self, model, messages, text):
            raise TimedOut("no answer in time")

    store = debated([own("told:")])
    with pytest.raises(TimedOut):
        await measured(store, Slow())
    assert store.rows("SELECT * FROM diversity") == []


async def test_models_of_different_bases_cannot_be_compared(debated):
    mixed = [("m1", "told:", "a1"), ("m2", "told:", "a2"), ("m3", "other:", "a3")]
    providers = [Told(compare=True), Told("other:", compare=True)]
    found = await measured(debated([mixed]), providers)
    row = found["generator", "kl", "all"]
    assert (row.value, row.pairs) == (0.5, 6)
    assert row.note == "12 of 18 pairs have different base models and are left out"
    assert found["generator", "kl_base", "all"].pairs == 9
    assert found["generator", "nll", "all"].pairs == 18


async def test_one_agent_has_nobody_to_differ_from(debated):
    found = await measured(debated([own("told:", 1)]), Told(compare=True))
    assert found["generator", "kl", "all"].value is None
    assert "there is one agent only" in found["generator", "kl", "all"].note
    assert found["generator", "kl_base", "all"].value == 0.5


async def test_one_agent_is_not_looked_at_twice(debated):
    store, provider = debated([own("told:", 1)]), Told()
    await measured(store, provider)
    later = Measurement(store, {"told:": provider}, STAGE, "sums", DiversityOptions(ALL), Cache())
    assert later.todo == ()


async def test_what_is_stored_is_not_computed_again(debated):
    store, provider = debated([own("told:")]), Told(compare=True)
    await measured(store, provider, measures=("kl",))
    before = store.rows("SELECT * FROM diversity ORDER BY ALL")
    providers = {"told:": provider}
    later = Measurement(store, providers, STAGE, "sums", DiversityOptions(("kl", "nll")), Cache())
    assert later.todo == (("generator", "nll"),)
    await later.carry_out()
    assert store.rows("SELECT * FROM diversity WHERE measure = 'kl' ORDER BY ALL") == before
    done = Measurement(store, providers, STAGE, "sums", DiversityOptions(("kl", "nll")), Cache())
    assert (done.todo, done.steps) == ((), 0)
    again = Measurement(
        store, providers, STAGE, "sums", DiversityOptions(("kl",)), Cache(), again=True
    )
    assert again.todo == (("generator", "kl"),)
    await again.carry_out()
    assert store.rows("SELECT count(*) FROM diversity") == [(4,)]


async def test_what_could_not_be_had_is_tried_again(debated):
    store = debated([own("told:")])
    await measured(store, Told(score=False), measures=("nll",))
    found = await measured(store, Told(), measures=("nll",))
    assert found["generator", "nll", "all"].value is not None
    assert store.rows("SELECT count(*) FROM diversity WHERE value IS NULL") == [(0,)]


async def test_arms_with_the_same_answers_are_asked_once(debated):
    store, provider, memory = debated([own("told:")]), Told(compare=True), Cache()
    for row in debated([own("told:")], arm="twin").turns(StageKey(1, "eval", "twin")):
        store.write(row)
    for vote in debated([own("told:")], arm="twin").votes(StageKey(1, "eval", "twin")):
        store.write(vote)
    steps = []
    for arm in ("multiagent", "twin"):
        stage = StageKey(1, "eval", arm)
        one = Measurement(store, {"told:": provider}, stage, "sums", DiversityOptions(ALL), memory)
        steps.append(one.steps)
        await one.carry_out()
    assert steps[0] > 0
    assert steps[1] == 0
    assert (
        store.rows(
            "SELECT count(DISTINCT value) FROM diversity WHERE responses = 'all' GROUP BY measure"
        )
        == [(1,)] * 3
    )


async def test_the_questions_are_chosen_by_hash_and_bounded(debated):
    said = {f"q{n}": [f"one {n}", f"two {n}"] for n in range(30)}
    agrees = dict.fromkeys(said, (True, True))
    chosen = []
    for arm in ("multiagent", "star"):
        provider = Told()
        store = debated([own("told:", 2)], said=said, agrees=agrees, arm=arm)
        stage = StageKey(1, "eval", arm)
        found = await measured(store, provider, stage, measures=("nll",), questions=7)
        assert found["generator", "nll", "all"].questions == 7
        chosen.append({text for _, text in provider.asked})
    assert chosen[0] == chosen[1]


async def test_progress_counts_to_the_end(debated, t5_like_minilm):
    store = debated([own("told:")])
    wanted = DiversityOptions(("embedding", "nll"), encoder=str(t5_like_minilm))
    one = Measurement(store, {"told:": Told()}, STAGE, "sums", wanted, Cache())
    done: list[int] = []
    rows = await one.carry_out(done.append)
    assert done == sorted(done)
    assert done[-1] == one_total(store)
    embedding = next(row for row in rows if row.measure == "embedding")
    assert embedding.encoder == str(t5_like_minilm)
    assert embedding.value is not None
    assert 0 < embedding.value < 2


def one_total(store) -> int:
    """Texts once for the encoder, and every text under the models of the two others."""
    [(texts,)] = store.rows("SELECT count(DISTINCT response) FROM turns")
    [(answers,)] = store.rows(
        "SELECT count(DISTINCT (m.model_id, t.messages, t.response)) FROM turns t "
        "JOIN (SELECT DISTINCT question_id, agent, model_id FROM turns) m "
        "ON m.question_id = t.question_id AND m.agent <> t.agent"
    )
    return int(texts) + int(answers)


@pytest.fixture(scope="module")
def t5_like_minilm(tmp_path_factory):
    """A tiny encoder of random weights over bytes."""
    import torch
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("encoder")
    ByT5Tokenizer().save_pretrained(folder)
    torch.manual_seed(1)
    config = T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


async def test_the_sampled_estimate_converges_to_the_exact_divergence(embedded):
    """Texts drawn from a model at temperature 1: the mean log-ratio of their tokens against the
    divergence over the whole vocabulary along the same texts."""
    p, q = ModelRef("m1", "embedded:", "a1"), ModelRef("m2", "embedded:", "a2")
    messages = (Message("user", "Hello!"),)

    async def both(number: int) -> tuple[float, float]:
        request = Request(p, messages, Sampling(max_tokens=8, seed=number), f"k{number}")
        text = (await embedded.complete(request)).text
        one, two, [divergence] = await asyncio.gather(
            embedded.score(p, messages, text),
            embedded.score(q, messages, text),
            embedded.divergences(p, [q], messages, text),
        )
        return sum(one.logprobs) - sum(two.logprobs), sum(divergence.nats)

    found = await asyncio.gather(*map(both, range(240)))
    exact = fmean(nats for _, nats in found)
    apart = [ratio - nats for ratio, nats in found]
    error = stdev(apart) / math.sqrt(len(apart))
    assert exact > 5 * error
    assert abs(fmean(apart)) < 3 * error
    few = [abs(fmean(apart[i : i + 20])) for i in range(0, 240, 20)]
    assert fmean(few) > abs(fmean(apart))

"""The user's own prompts, personas and sampling per agent: in debates, estimates and imports."""

from __future__ import annotations

import hashlib
import json

import pytest
from typer.testing import CliRunner

from evals.tasks.arithmetic import create
from providers.scripted import ScriptedProvider
from providers.types import Message, ModelRef
from society.cli import app
from society.config.load import ConfigError, load_config
from society.config.schema import Config
from society.costs.estimate import estimate_cost
from society.importing.debates import ImportedDebate, ImportedTurn
from society.importing.rows import build_rows
from society.method.agents import Society
from society.method.arms import build_arms
from society.method.debate import Debate
from society.method.debating import build_debate_rules
from society.method.experiment import load_experiment
from society.prompts import Wording
from store.ledger import Store
from store.records import StageKey, Turn

TASK = create({})
QUESTION = TASK.questions("eval", 0, 1)[0]
TEXTS = {
    "task": "Rechne: {question} {{sic}} \\boxed{} {answer_form}\n",
    "quoted": "Andere sagen:\n{solutions}\nUnd du? {answer_form}\n",
    "summarized": "Kurz: {summary}\nUnd du? {answer_form}\n",
    "summarize": "Fasse zusammen:\n{solutions}\n",
}
PERSONAS = "society.personas=['You are brief.', 'You doubt.', 'You are bold.']"


@pytest.fixture
def prompts(tmp_path):
    """Overrides that name a file for every prompt."""
    for name, text in TEXTS.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8", newline="\r\n")
    return [f'prompts.{name}={json.dumps(str(tmp_path / name))[:-1]}.txt"' for name in TEXTS]


async def hold(config: Config, store, decoding="sampled"):
    """The requests of one whole debate by this config, by the end of their key."""
    whole = config.society.model_copy(update={"early_end": False})
    config = config.model_copy(update={"society": whole})
    provider = ScriptedProvider(lambda request: "It is \\boxed{7}")
    base = ModelRef("scripted:", "scripted:")
    [arm] = build_arms(config)
    engine = Debate(
        Society.from_bases([base] * config.society.agents, base),
        TASK,
        {"scripted:": provider},
        store,
        StageKey(0, "eval", arm.name, decoding),
        build_debate_rules(config, arm, decoding),
    )
    assert [question async for question in engine.run([QUESTION])] == [QUESTION]
    return {request.key.split("/", 2)[2]: request for request in provider.requests}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "run.duckdb") as opened:
        yield opened


async def test_own_prompts_stand_in_every_place_of_the_packaged_ones(prompts, store):
    config = load_config("demo", [*prompts, "society.others=summarized"])
    asked = await hold(config, store)
    form = TASK.answer_form
    opening = Message("user", f"Rechne: {QUESTION.text} {{sic}} \\boxed{{}} {form}")
    assert asked["a1/r1/answer"].messages == (opening,)
    summary = "Fasse zusammen:\nSolution 1:\nIt is \\boxed{7}\n\nSolution 2:\nIt is \\boxed{7}"
    assert asked["a1/r2/summary"].messages == (Message("user", summary),)
    update = Message("user", f"Kurz: It is \\boxed{{7}}\nUnd du? {form}")
    assert asked["a1/r2/answer"].messages[-1] == update


async def test_quoted_debates_and_personas_use_them_too(prompts, store):
    more = [PERSONAS, "society.others=quoted", "society.system_prompt=Answer in German."]
    asked = await hold(load_config("demo", [*prompts, *more]), store)
    system = Message("system", "Answer in German.\n\nYou doubt.")
    for key in ("a2/r1/answer", "a2/r2/answer"):
        assert asked[key].messages[0] == system
    assert asked["a3/r2/answer"].messages[-1].content.startswith("Andere sagen:\nSolution 1:")
    assert len({asked[f"a{agent}/r1/answer"].messages for agent in (1, 2, 3)}) == 3


async def test_a_summarizer_has_no_system_prompt_and_all_agents_may_share_one(store):
    asked = await hold(load_config("demo", ["society.system_prompt=Be kind."]), store)
    roles = {key: [m.role for m in request.messages] for key, request in asked.items()}
    assert roles["a1/r2/summary"] == ["user"]
    assert roles["a3/r2/answer"] == ["system", "user", "assistant", "user"]


def test_the_files_texts_are_stored_with_the_run_and_need_no_file_any_more(prompts, tmp_path):
    config = load_config("demo", prompts)
    stored = json.loads(config.to_json())["prompts"]["task"]
    text = TEXTS["task"]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert stored == {"file": "task.txt", "text": text, "sha256": sha256}
    (tmp_path / "task.txt").unlink()
    assert Config.from_json(config.to_json()) == config
    assert "prompts" not in json.loads(load_config("demo").to_json())


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("task", "{question}", "prompts.task: 'own.txt': the text has no {answer_form}"),
        ("task", "{question} {answer_form} {hint}", "the place {hint}, which nothing fills"),
        ("quoted", "{answer_form}", "the text has no {solutions}"),
        ("summarized", "{solutions} {answer_form}", "the text has no {summary}"),
        ("summarize", "", "the text has no {solutions}"),
    ],
)
def test_missing_and_unknown_places_are_named(tmp_path, name, text, says):
    (tmp_path / "own.txt").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config("demo", [f'prompts.{name}="{tmp_path / "own.txt"}"'])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["prompts.task=nowhere.txt"], "prompts.task: cannot read 'nowhere.txt'"),
        (["society.personas=['one']"], "society.personas names 1 personas for 3 agents"),
        (["society.personas=['one', ' ', 'two']"], "society.personas"),
        (["sampling.agents=[{}]"], "sampling.agents has 1 entries for 3 agents"),
        (["sampling.agents=[{heat=1}, {}, {}]"], "heat"),
        (
            [PERSONAS, 'arms=["multiagent", {name="five", like="multiagent", agents=5}]'],
            "'five' has 5 agents, society.personas names 3",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ConfigError) as error:
        load_experiment("demo", settings)
    assert says in str(error.value)


async def test_every_agent_draws_by_its_own_settings_and_greedy_stays_greedy(store):
    own = "sampling.agents=[{temperature=0.2}, {top_p=0.5, max_tokens=9}, {}]"
    config = load_config("demo", [own])
    common = config.sampling
    drawn = {
        key: (request.sampling.temperature, request.sampling.top_p, request.sampling.max_tokens)
        for key, request in (await hold(config, store)).items()
    }
    assert drawn["a1/r1/answer"] == drawn["a1/r2/answer"] == (0.2, common.top_p, common.max_tokens)
    assert drawn["a2/r2/answer"] == (common.temperature, 0.5, 9)
    assert drawn["a3/r1/answer"] == (common.temperature, common.top_p, common.max_tokens)
    assert drawn["a1/r2/summary"][2] == common.summary_max_tokens
    greedy = await hold(config, store, "greedy")
    assert {request.sampling.temperature for request in greedy.values()} == {0.0}
    assert Config.from_json(config.to_json()) == config


def test_an_estimate_counts_system_prompts_and_each_agents_limit():
    def tokens(*settings):
        lines = estimate_cost(load_experiment("demo", settings)).lines
        return [
            sum(getattr(line, part).high for line in lines) for part in ("prompt", "completion")
        ]

    plain = tokens()
    told = tokens(f"society.system_prompt={'x' * 1000}")
    assert told[0] > plain[0] + 1000 * 300
    assert told[1] == plain[1]
    assert tokens("sampling.agents=[{}, {}, {max_tokens=16}]")[1] < plain[1]


def test_an_import_builds_the_same_prompts(prompts):
    config = load_config("demo", [*prompts, PERSONAS, "society.others=quoted"])
    stage = StageKey(0, "eval", "multiagent", "sampled")
    turns = {
        (agent, number, "answer"): ImportedTurn(
            f"line {agent}", stage, QUESTION.text, agent, number, f"\\boxed{{{agent}}}"
        )
        for agent in (1, 2, 3)
        for number in (1, 2)
    }
    found = build_rows(
        ImportedDebate(stage, QUESTION.question_id, turns),
        QUESTION,
        TASK,
        (3, 2),
        config.wording,
        summarized=False,
        drop_ties=True,
        quorum=1,
        seed=0,
    )
    sent = [json.loads(row.messages) for row in found if isinstance(row, Turn) and row.agent == 2]
    assert [message["role"] for message in sent[1]] == ["system", "user", "assistant", "user"]
    assert sent[1][:2] == sent[0]
    assert sent[0][0]["content"] == "You doubt."
    assert sent[1][-1]["content"].startswith("Andere sagen:\nSolution 1:\n\\boxed{1}")


def test_a_whole_run_goes_on_with_its_own_words_and_refuses_others(experiment, tmp_path, prompts):
    def start(*settings):
        given = [word for each in ("iterations=0", *settings) for word in ("--set", each)]
        where = ["--name", "own", "--runs", str(tmp_path / "runs")]
        return CliRunner().invoke(app, ["run", str(experiment), *where, *given])

    assert start(*prompts, PERSONAS).exit_code == 0
    with Store.open(tmp_path / "runs/own/run.duckdb", read_only=True) as opened:
        opening = opened.rows("SELECT messages FROM turns WHERE round = 1 AND agent = 3 LIMIT 1")
    assert json.loads(opening[0][0])[0] == {"role": "system", "content": "You are bold."}
    refused = start(*prompts)
    assert refused.exit_code == 2
    assert "society.personas: stored" in refused.output


def test_an_earlier_conversation_follows_the_agents_own_system_prompt():
    earlier = (Message("system", "Be brief."), Message("user", "1+1"), Message("assistant", "2"))
    wording = Wording(system_prompts=("You are strict.",), earlier=earlier)
    opened = wording.open_conversation(create({}), "3+4", 1)
    assert [message.role for message in opened] == ["system", "user", "assistant", "user"]
    assert opened[0].content == "You are strict.\n\nBe brief."
    assert Wording(earlier=earlier).open_conversation(create({}), "3+4", 1)[:3] == earlier

"""The arms of an experiment: what each is, through the whole loop, and what they share."""

import asyncio
import itertools
import json

import pytest

from evals.arm_kinds import ARM_KINDS
from providers.types import Capabilities, ModelRef
from society.config import load as experiments
from society.config import schema
from society.config.load import ConfigError
from society.method.agents import Society
from society.method.arms import build_arms, count_samples
from society.method.experiment import load_experiment, resolve
from society.method.finetuning import find_lacking, load_society
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from store.records import Question, Turn

ALL = ", ".join(f'"{kind}"' for kind in ARM_KINDS)


def load(experiment, *overrides):
    return load_experiment(str(experiment), overrides).config


def start(tmp_path, experiment, *overrides, name="run"):
    config = load(experiment, *overrides)
    folder = folders.locate_run(tmp_path / "runs", name)
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    return folder


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A finished run of every kind of arm: two iterations, quoted (a script knows three agents)."""
    folder = tmp_path_factory.mktemp("arms")
    kinds = [kind for kind in ARM_KINDS if not kind.startswith("compute")]
    _write_experiment(folder, [*kinds, "compute-matched-calls", "compute-matched-tokens"])
    return start(folder, folder / "arms.toml")


def _write_experiment(folder, kinds):
    script = [
        {"key": key, "text": text}
        for key, text in _Script(agents=25, train=4, evaluation=3, iterations=2).lines()
    ]
    (folder / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in script))
    listed = ", ".join(f'"{kind}"' for kind in kinds)
    (folder / "arms.toml").write_text(
        f"""
        model = "scripted:{folder / "script.jsonl"}"
        iterations = 2
        arms = [{listed}]
        [task]
        name = "arithmetic"
        [train]
        questions = 4
        [evaluation]
        questions = 3
        decodings = ["sampled"]
        """
    )


class _Script:
    """Agent 3 errs in round 1 and mends it in round 2; agent 2 is right at first and then errs."""

    def __init__(self, agents, train, evaluation, iterations):
        self.agents, self.train, self.evaluation = agents, train, evaluation
        self.iterations = iterations

    def lines(self):
        from evals.tasks.arithmetic import create

        task = create({})
        asked = [("eval", q) for q in task.questions("eval", 0, self.evaluation)]
        for k in range(1, self.iterations + 1):
            asked += [(f"train{k}", q) for q in task.questions("train", 0, self.train)]
        for which, question in asked:
            for agent in range(1, self.agents + 1):
                stem = f"{which}/{question.question_id}/a{agent}"
                for number in (1, 2):
                    right = int(question.gold)
                    wrong = (agent, number) in ((3, 1), (2, 2))
                    text = f"agent {agent}, round {number}: \\boxed{{{right + wrong}}}"
                    yield f"{stem}/r{number}/answer", text
                yield f"{stem}/r2/summary", f"summary for agent {agent}"


def test_an_arm_says_what_it_is(everything):
    found = {
        arm: json.loads(settings)
        for arm, settings in rows(everything, "SELECT arm, settings FROM arms ORDER BY position")
    }
    assert list(found) == list(ARM_KINDS)
    samples = found["compute-matched-tokens"]["samples"]
    picked = {
        arm: (s["agents"], s["rounds"], s["labels"], s["data"], s["models"], len(s["roles"]))
        for arm, s in found.items()
    }
    assert picked == {
        "multiagent": (3, 2, "final", "own", "own", 2),
        "single-agent": (3, 2, "final", "pooled", "shared", 2),
        "single-agent-matched": (3, 2, "final", "matched", "shared", 2),
        "no-critic": (3, 2, "final", "own", "own", 1),
        "round1-labels": (3, 2, "round1", "own", "own", 2),
        "no-summary": (3, 2, "final", "own", "own", 2),
        "loop": (3, 2, "final", "own", "own", 2),
        "star": (3, 1, "gold", "pooled", "shared", 1),
        "majority-ft": (3, 1, "final", "pooled", "shared", 1),
        "base": (1, 1, None, None, "own", 0),
        "majority": (3, 1, None, None, "own", 0),
        "debate": (3, 2, None, None, "own", 0),
        # Nine calls are one debate: three answers, three summaries, three answers.
        "compute-matched-calls": (9, 1, None, None, "own", 0),
        "compute-matched-tokens": (samples, 1, None, None, "own", 0),
    }


def test_a_loop_trains_from_what_was_distilled_in_the_iteration_before(everything):
    found = rows(
        everything,
        "SELECT iteration, agent, role, settings ->> '$.start.model_id', "
        "status = 'succeeded' AND shared_job_id IS NULL "
        "FROM jobs WHERE arm = 'loop' ORDER BY iteration, role DESC, agent",
    )
    owners = [(0, "generator"), *((a, r) for r in ("generator", "critic") for a in (1, 2, 3))]
    assert [(agent, role) for _, agent, role, *_ in found] == owners * 2
    first, second = found[:7], found[7:]
    [(base,)] = rows(everything, "SELECT DISTINCT provider FROM models")
    assert {start for *_, start, _ in first} == {base}
    # Untuned, the agents' data are those of multiagent, and the pooled ones those of single-agent.
    assert not any(own for *_, own in first)
    [(distilled,)] = rows(
        everything,
        "SELECT model_id FROM jobs JOIN models ON models.job_id = shared_job_id "
        "WHERE jobs.arm = 'loop' AND jobs.iteration = 1 AND jobs.agent = 0",
    )
    assert {start for *_, start, _ in second} == {distilled}
    [(examples, most)] = rows(
        everything,
        "SELECT max(examples) FILTER (WHERE agent = 0), "
        "sum(examples) FILTER (WHERE agent > 0 AND role = 'generator') "
        "FROM datasets WHERE arm = 'loop' AND iteration = 2",
    )
    assert examples == most


def test_a_loop_debates_with_the_models_of_its_agents(everything):
    answered = rows(
        everything,
        "SELECT agent, count(DISTINCT model_id), "
        "bool_and(model_id LIKE '%-a' || agent || '-%' OR model_id LIKE 'scripted:%') "
        "FROM turns WHERE arm = 'loop' AND iteration = 2 AND split = 'eval' AND kind = 'answer' "
        "GROUP BY agent ORDER BY agent",
    )
    assert answered == [(agent, 2, True) for agent in (1, 2, 3)]
    with Store.open(everything.database, read_only=True) as store:
        base = ModelRef("base", "base")
        society = load_society(store, Society.from_bases([base] * 3, base), 2, "loop")
    # Agent 3 has nothing to learn from as a generator, and keeps the base.
    assert [agent.generator == base for agent in society.agents] == [False, False, True]
    assert not any("-a0-" in model.model_id for model in society.models)


def test_a_loop_is_refused_where_it_cannot_be(experiment):
    config = load(experiment, "arms=['multiagent', 'loop']")
    [fault] = find_lacking(config, Capabilities(finetune=True, tuned_starts=False))
    assert "the arm 'loop' trains from a distilled model" in fault
    assert find_lacking(load(experiment), Capabilities(finetune=True, tuned_starts=False)) == []
    with pytest.raises(ConfigError, match="gives them one model already"):
        load(experiment, "arms=[{name='x', like='loop', data='pooled'}]")


def test_every_arm_answers_every_evaluation_question_once(everything):
    found = rows(
        everything,
        "SELECT arm, count(*) FILTER (WHERE round = 1), max(iteration) FROM votes "
        "WHERE split = 'eval' GROUP BY arm ORDER BY arm",
    )
    trained = {
        "multiagent",
        "star",
        "majority-ft",
        "no-critic",
        "no-summary",
        "round1-labels",
        "loop",
    }
    trained |= {"single-agent", "single-agent-matched", "loop"}
    assert found == [(k, *((9, 2) if k in trained else (3, 0))) for k in sorted(ARM_KINDS)]


def test_the_untuned_round_is_asked_once_and_every_copy_names_its_origin(everything):
    asked = rows(
        everything,
        "SELECT arm, count(*) FROM turns WHERE iteration = 0 AND shared_turn_id IS NULL "
        "AND NOT (kind = 'answer' AND round > 1 AND arm = 'no-summary') GROUP BY arm ORDER BY arm",
    )
    [(samples,)] = rows(
        everything,
        "SELECT (settings ->> '$.samples')::INT FROM arms WHERE arm = 'compute-matched-tokens'",
    )
    # 3 questions: a debate of 9 calls, and the samples beyond those that are there.
    assert asked == [
        ("compute-matched-calls", 3 * (9 - 3)),
        ("compute-matched-tokens", 3 * (samples - 9)),
        ("multiagent", 3 * 9),
    ]
    assert rows(
        everything,
        "SELECT count(*) FROM turns t JOIN turns o ON o.turn_id = t.shared_turn_id "
        "WHERE (t.response, t.messages, t.model_id, t.agent, t.round, t.kind) IS DISTINCT FROM "
        "(o.response, o.messages, o.model_id, o.agent, o.round, o.kind) "
        "OR o.shared_turn_id IS NOT NULL",
    ) == [(0,)]
    [(dangling,)] = rows(
        everything,
        "SELECT count(*) FROM turns WHERE shared_turn_id IS NOT NULL AND shared_turn_id NOT IN "
        "(SELECT turn_id FROM turns)",
    )
    assert dangling == 0


def test_the_first_training_debate_is_held_once(everything):
    shared = rows(
        everything,
        "SELECT arm, count(shared_turn_id) = count(*) FROM turns "
        "WHERE split = 'train' AND iteration = 1 AND arm NOT IN ('multiagent', 'no-summary') "
        "GROUP BY arm",
    )
    assert len(shared) == 7
    assert all(every for _, every in shared)


def test_equal_training_has_one_job_and_its_model_speaks_for_both_arms(everything):
    jobs = rows(
        everything,
        "SELECT j.agent, o.arm, o.agent, o.role, j.provider_job_id FROM jobs j "
        "JOIN jobs o ON o.job_id = j.shared_job_id WHERE j.arm = 'no-critic' AND j.iteration = 1 "
        "ORDER BY 1",
    )
    assert jobs == [(n, "multiagent", n, "generator", None) for n in (1, 2)]
    assert rows(
        everything,
        "SELECT DISTINCT m.arm, m.agent = t.agent FROM turns t JOIN models m USING (model_id) "
        "WHERE t.arm = 'no-critic' AND t.split = 'eval' AND t.iteration = 1 AND t.round = 1 "
        "AND m.artifact IS NOT NULL",
    ) == [("multiagent", True)]


def test_a_shared_model_learns_from_all_agents_or_from_as_much_as_one_would(everything):
    sizes = dict(
        rows(
            everything,
            "SELECT dataset_id, examples FROM datasets WHERE iteration = 1 AND role = 'generator'",
        )
    )
    own = [sizes[f"multiagent-a{n}-generator-it1"] for n in (1, 2, 3)]
    assert own == [4, 4, 0]
    assert sizes["single-agent-a0-generator-it1"] == 8
    assert sizes["single-agent-matched-a0-generator-it1"] == round(8 / 3)
    questions = rows(
        everything,
        "SELECT count(DISTINCT question_id) FROM dataset_examples "
        "WHERE dataset_id = 'single-agent-matched-a0-generator-it1'",
    )
    assert questions == [(3,)]
    assert rows(
        everything,
        "SELECT count(DISTINCT model_id), min(iteration) FROM turns WHERE arm = 'single-agent' "
        "AND split = 'eval' AND iteration = 2 AND kind = 'answer' AND round = 1",
    ) == [(1, 2)]


def test_only_star_learns_from_gold(everything):
    labels = rows(
        everything,
        "SELECT arm, bool_and(v.agrees = v.correct) FROM turns JOIN verdicts v USING (turn_id) "
        "WHERE split = 'train' AND kind = 'answer' GROUP BY arm",
    )
    assert dict(labels)["star"]
    assert rows(everything, "SELECT arm FROM arms WHERE labels = 'gold'") == [("star",)]
    assert rows(
        everything,
        "SELECT count(*) FROM turns WHERE arm = 'star' AND split = 'train' AND agent > 1",
    ) == [(0,)]


def test_gold_answers_change_nothing_but_what_star_learns(tmp_path):
    """The same run with wrong gold answers: the same datasets in every arm but STaR's."""
    kinds = ["multiagent", "single-agent-matched", "round1-labels", "majority-ft", "star"]
    digests = {}
    for name, gold in (("right", "7"), ("wrong", "8")):
        folder = tmp_path / name
        folder.mkdir()
        questions = [{"id": f"q{n}", "question": f"{n}+?", "gold": gold} for n in range(8)]
        (folder / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
        texts = {1: "\\boxed{7}", 2: "\\boxed{7}", 3: "\\boxed{8}"}
        listed = ", ".join(f'"{kind}"' for kind in kinds)
        (folder / "gold.toml").write_text(
            f"""
            model = "scripted:{folder / "script.jsonl"}"
            arms = [{listed}]
            [task]
            name = "file"
            path = "{folder / "q.jsonl"}"
            gold = "gold"
            answer = "number"
            [train]
            questions = 4
            [evaluation]
            questions = 2
            decodings = ["sampled"]
            """
        )
        keys = [
            (f"{which}/file:q{n}/a{agent}/r{number}/{kind}", agent, number)
            for which in ("train1", "eval")
            for n in range(8)
            for agent in (1, 2, 3)
            for number, kind in ((1, "answer"), (2, "summary"), (2, "answer"))
        ]
        script = [
            {"key": key, "text": texts[agent] if number == 1 else "\\boxed{7}"}
            for key, agent, number in keys
        ]
        (folder / "script.jsonl").write_text("".join(json.dumps(x) + "\n" for x in script))
        run = start(folder, folder / "gold.toml")
        digests[name] = dict(rows(run, "SELECT dataset_id, sha256 FROM datasets"))
    changed = {k for k in digests["right"] if digests["right"][k] != digests["wrong"][k]}
    assert changed == {"star-a0-generator-it1"}


def test_a_finished_run_takes_more_arms_and_repeats_nothing(tmp_path):
    _write_experiment(tmp_path, ["multiagent"])
    folder = start(tmp_path, tmp_path / "arms.toml")
    before = rows(folder, "FROM turns ORDER BY turn_id")
    more = 'arms=["multiagent", "debate", "no-critic"]'
    start(tmp_path, tmp_path / "arms.toml", more)
    after = rows(folder, "FROM turns WHERE arm = 'multiagent' ORDER BY turn_id")
    assert after == before
    assert rows(folder, "SELECT count(DISTINCT arm) FROM votes") == [(3,)]
    with pytest.raises(ConfigError, match=r"arms: stored .* now .*arms may only be added"):
        folders.start_run(folder, load(tmp_path / "arms.toml"))


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ('["star", "stars"]', "'stars' is no arm; there are multiagent, "),
        ('["star", "star"]', "'star' is there twice"),
        ("[]", "leaves nothing to run"),
        ('["base", "compute-matched-tokens"]', "add 'debate' or 'multiagent'"),
        ('[{name = "x", like = "multiagent", labels = "gold"}]', "is for the arm star alone"),
        ('[{name = "x", like = "debate", w = 0.3}]', "which is not trained"),
        ('[{name = "x", like = "debate", agents = 1}]', "a debate takes two; set rounds = 1"),
        ('[{name = "star", like = "majority-ft"}]', "is the name of another kind"),
        ('[{name = "x", like = "star", data = "own"}]', 'set data = "pooled"'),
        (
            '[{name = "x", like = "multiagent", finetune = {rate = 1, batch_size = 0}}]',
            "'x': finetune.batch_size: .*finetune.rate: unknown",
        ),
        (
            '[{name = "x", like = "multiagent", society = {agents = 4}}]',
            "society.agents cannot be an arm's own .*write agents = … beside like",
        ),
        ('[{name = "x", like = "multiagent", w = 0, datasets = {w = 1}}]', "has w twice"),
        (
            '[{name = "x", like = "multiagent", consensus = {quorum = 4}}]',
            "quorum = 4 leaves the arm 'x'",
        ),
        (
            '[{name = "x", like = "multiagent", datasets = {critic = "none.sql"}}]',
            "'x': datasets.critic: cannot read 'none.sql'",
        ),
    ],
)
def test_what_an_arm_cannot_be_is_refused_before_anything_starts(experiment, arms, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load(experiment, f"arms={arms}")


def test_one_model_for_all_agents_needs_agents_of_one_model(experiment, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text((tmp_path / "script.jsonl").read_text())
    own = f"scripted:{tmp_path / 'script.jsonl'}"
    models = f'society.models=["{own}", "{own}", "scripted:{other}"]'
    assert load(experiment, models, 'arms=["multiagent", "debate"]')
    with pytest.raises(ConfigError, match=r"society\.models names several"):
        load(experiment, models, 'arms=["multiagent", "single-agent"]')


def test_a_variant_differs_in_what_it_says_and_in_nothing_else(experiment):
    five = '{name = "five", like = "multiagent", agents = 5, w = 0.25}'
    quiet = '{name = "quiet", like = "multiagent", tune = "generators", rounds = 3}'
    config = load(experiment, f'arms=["multiagent", {five}, {quiet}]')
    whole, more, generators = build_arms(config)
    assert (more.agents, more.train_agents, more.w) == (5, 5, 0.25)
    assert (more.rounds, more.tuned, more.labels) == (whole.rounds, whole.tuned, whole.labels)
    assert (generators.tuned, generators.rounds) == (("generator",), 3)
    assert build_arms(schema.Config.from_json(config.to_json())) == build_arms(config)


def test_an_arm_has_sections_of_its_own(experiment, tmp_path):
    (tmp_path / "own.sql").write_text("SELECT * FROM critic_examples WHERE question_id < 'x'")
    slow = (
        '{name = "slow", like = "multiagent", consensus = {ties = "first"}, '
        f'datasets = {{w = 0.25, critic = "{tmp_path / "own.sql"}"}}, '
        'finetune = {learning_rate = 1e-5, init = "fresh"}}'
    )
    config = load(experiment, f'arms=["multiagent", {slow}]', "finetune.learning_rate=1e-3")
    whole, own = config.by_arm
    assert whole == config == config.for_arm("no such arm")
    assert (own.finetune.learning_rate, own.finetune.init) == (1e-5, "fresh")
    assert own.finetune.batch_size == config.finetune.batch_size
    assert (own.consensus.ties, own.datasets.w) == ("first", 0.25)
    assert own.datasets.critic.file == "own.sql"
    arm = build_arms(config)[1]
    assert arm.w == 0.25
    assert json.loads(arm.record().settings)["own"]["finetune"]["init"] == "fresh"
    assert schema.Config.from_json(config.to_json()).by_arm == config.by_arm


def test_an_arm_trains_and_votes_by_its_own_settings(tmp_path):
    _write_experiment(tmp_path, ["multiagent"])
    few = '{name = "few", like = "multiagent", datasets = {max_examples = 1}'
    arms = f'arms=["multiagent", {few}, finetune = {{generator_epochs = 7}}}}]'
    folder = start(tmp_path, tmp_path / "arms.toml", arms)
    found = rows(
        folder,
        "SELECT arm, max(d.examples), min(settings ->> '$.hyperparameters.epochs')"
        "FROM jobs JOIN datasets d USING (dataset_id, arm, role)"
        "WHERE role = 'generator' GROUP BY arm ORDER BY arm",
    )
    assert found == [("few", 1, "7"), ("multiagent", 4, "2")]
    changed = arms.replace("generator_epochs = 7", "generator_epochs = 8")
    with pytest.raises(ConfigError, match=r"arms: stored .*epochs': 7.* now .*epochs': 8"):
        folders.start_run(folder, load(tmp_path / "arms.toml", changed))


def test_the_stored_experiment_file_starts_the_same_run(tmp_path):
    _write_experiment(tmp_path, ["multiagent", "debate"])
    five = 'arms=["multiagent", {name = "five", like = "debate", agents = 5}]'
    folder = start(tmp_path, tmp_path / "arms.toml", five)
    again = experiments.load_config(str(folder.path / "config.toml"))
    assert again == load(tmp_path / "arms.toml", five)


class _Stopped(Exception):
    pass


def _stopping_at(event_number):
    """An observer that ends the run at one of its events, wherever that is."""
    seen = 0

    def observe(event):
        nonlocal seen
        seen += 1
        if seen == event_number:
            raise _Stopped

    return observe


@pytest.mark.long
def test_a_run_of_several_arms_goes_on_from_wherever_it_was_stopped(tmp_path):
    _write_experiment(tmp_path, ["multiagent", "no-critic", "debate", "compute-matched-tokens"])
    whole = start(tmp_path, tmp_path / "arms.toml", name="whole")
    config, folder = (
        load(tmp_path / "arms.toml"),
        folders.locate_run(tmp_path / "runs", "whole-in-parts"),
    )
    # Every start sees the stages that are done as two events each.
    stops = 0
    for event in itertools.count(30, 29):
        with folders.start_run(folder, config) as store:
            try:
                asyncio.run(
                    runner.run_experiment(folder, resolve(config), store, _stopping_at(event))
                )
            except _Stopped:
                stops += 1
            else:
                break
    assert stops >= 4
    for query in (
        "SELECT * EXCLUDE (created_at, latency_ms) FROM turns",
        "FROM votes",
        "FROM verdicts",
        "SELECT * EXCLUDE (created_at) FROM datasets",
        "FROM dataset_examples",
        "FROM arms",
        "SELECT iteration, arm, agent, role, status, shared_job_id IS NULL FROM jobs",
    ):
        ours, theirs = (
            [str(row).replace("whole-in-parts", "whole") for row in rows(run, query)]
            for run in (folder, whole)
        )
        assert sorted(ours) == sorted(theirs), query


@pytest.mark.parametrize("kind", ["compute-matched-calls", "compute-matched-tokens"])
def test_a_vote_over_samples_needs_sampled_answers(tmp_path, kind):
    _write_experiment(tmp_path, ["multiagent", kind])
    with pytest.raises(ConfigError, match=f"'{kind}'.*\\['greedy'\\].*add \"sampled\"") as told:
        load(tmp_path / "arms.toml", 'evaluation.decodings=["greedy"]')
    assert "leave the arm out" in str(told.value)


@pytest.mark.parametrize(("tokens", "failed", "samples"), [(0, 0, None), (10, 0, 4), (10, 2, 4)])
def test_samples_are_counted_only_where_answers_tell_their_tokens(
    tmp_path, tokens, failed, samples
):
    def turn(agent, number, spent, reason):
        return Turn(
            0, "eval", "debate", "sampled", "q", agent, number, "answer", "m", "[]", "7", "7",
            reason, spent, 0, 1.0,
        )  # fmt: skip

    answers = [turn(a, r, tokens, "stop") for a in (1, 2) for r in (1, 2)]
    gone = [turn(3 + n, 1, 0, "error") for n in range(failed)]
    with Store.open(tmp_path / "run.duckdb") as store:
        store.write(Question("q", "t", "eval", "?"), *answers, *gone)
        assert count_samples(store, "debate") == samples

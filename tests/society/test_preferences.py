"""Arms that learn from preferences: what they are trained on, and what is refused beforehand."""

import asyncio
import json

import pytest

from providers.scripted import ScriptedProvider
from providers.types import Capabilities
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.method.finetuning import find_faults
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

ARMS = (
    'arms=["multiagent", '
    '{name = "dpo", like = "multiagent", finetune = {objective = "dpo", beta = 0.2}}, '
    '{name = "kto", like = "single-agent", finetune = {objective = "kto"}}]'
)


def load(experiment, *overrides):
    return load_experiment(str(experiment), overrides).config


def test_each_arm_learns_from_what_its_objective_needs(tmp_path, experiment):
    config = load(experiment, ARMS)
    folder = folders.locate_run(tmp_path / "runs", "run")
    for _ in range(2):
        # A second start finds everything done and changes nothing.
        with folders.start_run(folder, config) as store:
            asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    with Store.open(folder.database, read_only=True) as store:
        learnt = store.rows(
            "SELECT d.arm, d.agent, d.role, count(e.turn_id), count(e.rejected_turn_id), "
            "count(*) FILTER (WHERE e.wanted), count(*) FILTER (WHERE NOT e.wanted) "
            "FROM datasets AS d LEFT JOIN dataset_examples AS e USING (dataset_id) "
            "WHERE d.iteration = 1 AND d.agent IN (0, 3) GROUP BY ALL ORDER BY ALL"
        )
        # Agent 3 errs at first on three questions, and stays wrong on one of them.
        assert learnt == [
            ("dpo", 3, "critic", 2, 2, 0, 0),
            ("dpo", 3, "generator", 2, 2, 0, 0),
            ("kto", 0, "critic", 12, 0, 11, 1),
            ("kto", 0, "generator", 12, 0, 9, 3),
            ("multiagent", 3, "critic", 3, 0, 0, 0),
            ("multiagent", 3, "generator", 1, 0, 0, 0),
        ]
        # From a model back to the two turns of each pair.
        lineage = store.rows(
            "SELECT DISTINCT m.arm, m.agent, m.role, b.round, w.round, vb.agrees, vw.agrees "
            "FROM models AS m JOIN dataset_examples AS e USING (dataset_id) "
            "JOIN turns AS b ON b.turn_id = e.turn_id "
            "JOIN turns AS w ON w.turn_id = e.rejected_turn_id "
            "JOIN verdicts AS vb ON vb.turn_id = b.turn_id "
            "JOIN verdicts AS vw ON vw.turn_id = w.turn_id ORDER BY ALL"
        )
        assert lineage == [("dpo", 3, role, 2, 1, True, False) for role in ("critic", "generator")]
        [(settings,)] = store.rows(
            "SELECT DISTINCT settings FROM jobs WHERE arm = 'dpo' AND agent = 3 AND iteration = 1 "
            "AND role = 'critic'"
        )
        found = json.loads(settings)["hyperparameters"]
        assert (found["objective"], found["beta"]) == ("dpo", 0.2)
        [(kept,)] = store.rows(
            "SELECT error FROM jobs WHERE arm = 'dpo' AND agent = 1 AND iteration = 1 "
            "AND role = 'generator'"
        )
        assert "no question with a right and a wrong answer" in kept


@pytest.mark.parametrize(
    ("arm", "named"),
    [
        ('like = "majority-ft", finetune = {objective = "dpo"}', "one round: a pair is made of"),
        (
            'like = "multiagent", finetune = {objective = "kto"}, datasets = {critic_loss = "all"}',
            "a preference is about the last answer",
        ),
        ('like = "multiagent", finetune = {objective = "orpo"}', "finetune.objective"),
        ('like = "multiagent", finetune = {objective = "dpo", beta = 0}', "finetune.beta"),
    ],
)
def test_what_could_find_no_preference_is_refused_before_the_first_call(experiment, arm, named):
    with pytest.raises(ConfigError, match=named):
        load(experiment, f'arms=["multiagent", {{name = "x", {arm}}}]')


def test_a_selection_of_answers_does_not_choose_pairs(tmp_path, experiment):
    (tmp_path / "mine.sql").write_text("SELECT * FROM generation_examples")
    chosen = f'datasets.generation="{tmp_path / "mine.sql"}"'
    with pytest.raises(ConfigError, match="such a selection chooses answers"):
        load(experiment, ARMS, chosen)


def test_a_provider_without_the_objective_says_which_it_has(experiment):
    class Plain(ScriptedProvider):
        capabilities = Capabilities(finetune=True)

    [fault, other] = find_faults(load(experiment, ARMS), Plain(lambda request: ""))
    assert "finetune.objective = 'dpo': it cannot learn from preferences so; set one of: sft" in (
        fault
    )
    assert "'kto'" in other

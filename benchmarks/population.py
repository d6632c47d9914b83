"""A run of a million debates, for benchmarks of what reads runs.

Five stages of the society itself and one of another arm, three agents, two rounds: six turns to a
debate. It is made in SQL, once, and kept under benchmarks/results/.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import duckdb

from store.ledger import Store
from store.records import Model, Run, StoredArm
from store.spending import Price

_CONFIG = """{"model": "embedded:", "iterations": 2, "seed": 0, "task": {"name": "arithmetic"},
"society": {"agents": 3, "rounds": 2}, "train": {"questions": $N}, "evaluation": {"questions": $N}}
"""
RESULTS = Path(__file__).parent / "results"
STAGES = ((1, "train"), (2, "train"), (0, "eval"), (1, "eval"), (2, "eval"))

_QUESTIONS = """
INSERT INTO questions
SELECT concat_ws(':', split, iteration, md5(q::VARCHAR)[:12]), 'arithmetic', split,
    'What is ' || q || ' + 7 * 3 - 2?', '0', iteration, q, NULL, false
FROM range($questions) AS numbers (q),
    (VALUES (1, 'train'), (2, 'train'), (NULL, 'eval')) AS made (iteration, split)
"""
# Four of five answers are right in round 1 and nearly nine of ten in round 2; one of fifty is
# truncated. A right answer is "0", wrong ones are spread over six.
_TURNS = """
INSERT INTO turns (turn_id, iteration, arm, split, decoding, question_id, agent, round, kind,
    model_id, messages, response, answer, finish_reason, prompt_tokens, completion_tokens,
    latency_ms, created_at, sha256)
WITH drawn AS (
    SELECT q, agent, round, hash(q, agent, round, $iteration, $split) >> 1 AS turn_id,
        hash(q, agent, round, $iteration, $split, 'luck') % 100 AS luck,
        concat_ws(':', $split, if($split = 'train', $iteration, NULL), md5(q::VARCHAR)[:12])
            AS question_id
    FROM range($first, $last) AS questions (q), unnest([1, 2, 3]) AS agents (agent),
        unnest([1, 2]) AS rounds (round)
)
SELECT turn_id, $iteration, 'multiagent', $split, 'sampled', question_id, agent, round, 'answer',
    'model-' || agent,
    '[{"role": "user", "content": "' || repeat('What is ' || q || ' + 7 * 3 - 2? ', 25) || '"}]',
    list_aggregate(list_transform(range(12), lambda step: 'Step ' || step || ': multiply '
        || (hash(turn_id, step) % 100000) || ' by ' || q || ' first.'), 'string_agg', ' '),
    CASE WHEN luck < 2 THEN NULL WHEN luck < if(round = 1, 20, 12) THEN (luck % 6 + 1)::VARCHAR
        ELSE '0' END,
    if(luck < 2, 'length', 'stop'), 300, 120, 12.5,
    TIMESTAMP '2026-01-01' + to_seconds($number * 100000 + q // 4),
    sha256(question_id || '/' || agent || '/' || round)
FROM drawn ORDER BY q, round, agent
"""
_VOTES = """
INSERT INTO votes (iteration, arm, split, decoding, question_id, round, answer, votes, voters,
    tie, correct)
WITH counted AS (
    SELECT question_id, round, answer, count(*) AS votes, min(agent) AS first
    FROM turns WHERE iteration = $iteration AND split = $split AND answer IS NOT NULL GROUP BY ALL
),
decided AS (
    SELECT question_id, round, max(votes) AS votes, sum(votes)::INTEGER AS voters,
        arg_max(answer, votes * 10 - first) AS answer,
        count_if(votes = most) > 1 AS tie
    FROM (SELECT *, max(votes) OVER (PARTITION BY question_id, round) AS most FROM counted)
    GROUP BY question_id, round
)
SELECT $iteration, 'multiagent', $split, 'sampled', question_id, round,
    if(tie AND $split = 'train', NULL, answer) AS label, coalesce(votes, 0),
    coalesce(voters, 0), coalesce(tie, false), coalesce(label = '0', false)
FROM (SELECT DISTINCT question_id, round FROM turns
      WHERE iteration = $iteration AND split = $split)
LEFT JOIN decided USING (question_id, round)
ORDER BY question_id, round
"""
_VERDICTS = """
INSERT INTO verdicts
SELECT turn_id, if(label IS NULL, NULL, coalesce(t.answer = label, false)),
    coalesce(t.answer = '0', false)
FROM turns AS t
JOIN (SELECT question_id, answer AS label FROM votes
      WHERE iteration = $iteration AND split = $split AND round = 2) USING (question_id)
WHERE iteration = $iteration AND split = $split
"""
_DATASETS = """
INSERT INTO datasets
SELECT concat('multiagent-a', agent, '-', role, '-it', iteration), iteration, 'multiagent',
    agent, role, examples, sha256(role || agent), 'final', 0,
    if(role = 'critic', examples // 2, NULL), if(role = 'critic', examples - examples // 2, NULL),
    if(role = 'critic', 0.5, NULL), NULL, NULL, TIMESTAMP '2026-01-02'
FROM (
    SELECT iteration, agent, if(round = 1, 'generator', 'critic') AS role, count(*) AS examples
    FROM turns JOIN verdicts USING (turn_id)
    WHERE split = 'train' AND agrees GROUP BY ALL
)
"""
_EXAMPLES = """
INSERT INTO dataset_examples
SELECT dataset_id, turn_id, question_id,
    row_number() OVER (PARTITION BY dataset_id ORDER BY question_id) - 1
FROM (
    SELECT concat('multiagent-a', agent, '-', if(round = 1, 'generator', 'critic'), '-it',
        iteration) AS dataset_id, turn_id, question_id
    FROM turns JOIN verdicts USING (turn_id)
    WHERE split = 'train' AND agrees
)
ORDER BY ALL
"""
_JOBS = """
INSERT INTO jobs BY NAME
SELECT 'job-' || dataset_id AS job_id, iteration, arm, agent, role, dataset_id, sha256 AS digest,
    'succeeded' AS status, dataset_id AS provider_job_id, 'succeeded' AS raw_status,
    examples * 120 AS trained_tokens, TIMESTAMP '2026-01-02' AS created_at,
    TIMESTAMP '2026-01-03' AS finished_at FROM datasets
"""
_MODELS = """
INSERT INTO models
SELECT concat_ws('/', arm, concat('a', agent), role, concat('it', iteration)), 'embedded:',
    if(iteration = 1, 'base', concat_ws('/', arm, concat('a', agent), role, 'it1')),
    dataset_id, sha256, dataset_id, 'job-' || dataset_id, iteration, arm, agent, role,
    TIMESTAMP '2026-01-03' FROM datasets
"""
_POINTS = """
INSERT INTO training_points
SELECT job_id, step, 0.4 + 1 / (1 + step / 50) + random() / 20, 0.001
FROM jobs, range(1, 2001) AS steps (step)
"""
# The untuned society's first answers and their vote, as an arm of its own that has paid nothing.
_MAJORITY = (
    """
    INSERT INTO turns BY NAME
    SELECT * REPLACE ('majority' AS arm, hash(turn_id) >> 1 AS turn_id, turn_id AS shared_turn_id)
    FROM turns WHERE iteration = 0 AND round = 1
    """,
    """
    INSERT INTO votes BY NAME
    SELECT * REPLACE ('majority' AS arm) FROM votes WHERE iteration = 0 AND round = 1
    """,
    """
    INSERT INTO verdicts
    SELECT t.turn_id, coalesce(t.answer = v.answer, false), coalesce(t.answer = '0', false)
    FROM turns AS t
    JOIN votes AS v USING (iteration, arm, split, decoding, question_id, round)
    WHERE arm = 'majority'
    """,
)
_FINAL = (*_MAJORITY, _DATASETS, _EXAMPLES, _JOBS, _MODELS, _POINTS)


def database(debates: int, *, fresh: bool = False) -> Path:
    """The file of such a run, made where it is not there yet or a `fresh` one is asked for.

    It lies in a folder of runs, `debates-N`, as the run `run`.
    """
    path = RESULTS / f"debates-{debates}" / "run" / "run.duckdb"
    if fresh or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        for left in (part, part.with_name(f"{part.name}.wal")):
            left.unlink(missing_ok=True)
        print(f"making a run of {debates:,} debates: {path}")
        make(part, debates)
        part.replace(path)
    else:
        Store.open(path).close()  # brings the views up to date
    return path


def make(path: Path, debates: int) -> None:
    """A finished run of `debates` debates, in five stages of equal size."""
    questions = debates // len(STAGES)
    with Store.open(path) as store:
        store.write(
            Run("million", _CONFIG.replace("$N", str(questions)), "0", 0, "{}"),
            StoredArm("multiagent", 0, "multiagent", "final", "{}"),
            *(Model(f"model-{agent}", "embedded:") for agent in (0, 1, 2, 3)),
            StoredArm("majority", 1, "majority", None, "{}"),
            Model("base", "embedded:"),
            *(
                Price("embedded:", tuned, 1.0, 2.0, "here", training_usd=3.0)
                for tuned in (False, True)
            ),
        )
        store.transact(partial(_execute, _QUESTIONS, {"questions": questions}))
        for number, (iteration, split) in enumerate(STAGES):
            stage = {"iteration": iteration, "split": split}
            for first in range(0, questions, 50_000):
                last = min(questions, first + 50_000)
                bounds = {"first": first, "last": last, "number": number}
                store.transact(partial(_execute, _TURNS, stage | bounds))
            store.transact(partial(_execute, _VOTES, stage))
            store.transact(partial(_execute, _VERDICTS, stage))
        for sql in _FINAL:
            store.transact(partial(_execute, sql, {}))


def _execute(sql: str, params: Mapping[str, object], connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(sql, dict(params))

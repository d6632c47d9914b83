"""Real transcripts through the whole store: imported, then replayed by a run.

Four GPT-3 models on the 1,319 test questions of GSM8K, each answer with its verdict
(https://github.com/openai/grade-school-math). What should come out is derived here once more, in
plain Python from the raw file.
"""

import asyncio
import json
import os
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from society import importing
from society.config import load as experiments
from society.importing import ImportSource
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

DATA = Path(os.environ.get("SOCIETY_DATA", Path(__file__).parents[2] / "../shared/data"))
FILE = DATA / "gsm8k_model_solutions.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUMBER = r"-?(?:[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?|\.[0-9]+)"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there")


@pytest.fixture(scope="module")
def solved():
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory, solved):
    """The models' answers as training debates, and one held-out debate on either side of it."""
    path = tmp_path_factory.mktemp("gsm8k") / "turns.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for question in solved:
            for agent, model in enumerate(MODELS, start=1):
                line = {
                    "question": question["question"],
                    "agent": agent,
                    "round": 1,
                    "response": question[model]["solution"],
                    "gold": question["ground_truth"],
                    "model": model,
                }
                file.write(json.dumps(line) + "\n")
        for iteration in (0, 1):
            for agent in (1, 2, 3, 4):
                line = {
                    "question": "What is six times seven?",
                    "agent": agent,
                    "round": 1,
                    "response": f"A: {42 if agent <= 2 + iteration else 13}",
                    "gold": 42,
                    "split": "eval",
                    "iteration": iteration,
                }
                file.write(json.dumps(line) + "\n")
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory, transcripts):
    folder = folders.locate_run(tmp_path_factory.mktemp("imported"), "gsm8k")
    importing.import_file(transcripts, folder, ImportSource(None, None, "number"))
    return folder


@pytest.fixture(scope="module")
def replayed(tmp_path_factory, imported):
    config = experiments.load_config(str(imported.path / "config.toml"))
    assert config.model == f"replay:{imported.path}"
    folder = folders.locate_run(tmp_path_factory.mktemp("replayed"), "again")
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    return folder


@pytest.fixture(params=["imported", "replayed"])
def run(request):
    return request.getfixturevalue(request.param)


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def stated(solution):
    """The number behind "A: "; two unfinished solutions still end in a result. None without any."""
    last = solution.strip().splitlines()[-1]
    ended = re.fullmatch(rf"A: \$?({NUMBER})%?( billion)?", last)
    unfinished = re.fullmatch(r"(?:.*>>)?([0-9]{1,9})()(?: [a-z ]+)?", last)
    found = ended or unfinished
    if found is None:
        return None
    return Fraction(found[1].replace(",", "")) * (10**9 if found[2] else 1)


def voted(numbers):
    """(answer, supporters, voters, tie); the earliest agent's answer leads a tie."""
    cast = [number for number in numbers if number is not None]
    if not cast:
        return None, 0, 0, False
    counts = Counter(cast)
    most = max(counts.values())
    leading = [number for number in dict.fromkeys(cast) if counts[number] == most]
    return leading[0], most, len(cast), len(leading) > 1


def test_every_verdict_is_the_one_the_data_comes_with(run, solved):
    stored = rows(
        run,
        "SELECT question, agent, v.correct FROM turns JOIN questions USING (question_id) "
        "JOIN verdicts v USING (turn_id) WHERE turns.split = 'train'",
    )
    expected = {
        (question["question"].strip(), agent): question[model]["is_correct"]
        for question in solved
        for agent, model in enumerate(MODELS, start=1)
    }
    assert len(stored) == len(expected) == 5276
    assert {(text, agent): correct for text, agent, correct in stored} == expected


def test_every_vote_is_that_of_a_plain_count(run, solved):
    stored = {
        text: (answer, votes, voters, tie, correct)
        for text, answer, votes, voters, tie, correct in rows(
            run,
            "SELECT question, answer, votes, voters, tie, correct FROM votes "
            "JOIN questions USING (question_id) WHERE votes.split = 'train'",
        )
    }
    assert len(stored) == 1319
    for question in solved:
        numbers = [stated(question[model]["solution"]) for model in MODELS]
        label, votes, voters, tie = voted(numbers)
        label = None if tie else label
        answer, *rest, correct = stored[question["question"].strip()]
        assert rest == [votes, voters, tie]
        assert (None if answer is None else Fraction(answer)) == label
        assert correct == (label is not None and label == stated(question["ground_truth"]))


def test_the_views_and_datasets_are_those_of_a_plain_count(run, solved):
    right, learnt, shares = Counter(), Counter(), []
    labelled = tied = labels_right = 0
    for question in solved:
        numbers = [stated(question[model]["solution"]) for model in MODELS]
        label, votes, voters, tie = voted(numbers)
        right.update(a for a, m in enumerate(MODELS, 1) if question[m]["is_correct"])
        shares += [votes / voters] if voters else []
        tied += tie
        if label is None or tie:
            continue
        labelled += 1
        labels_right += label == stated(question["ground_truth"])
        learnt.update(agent for agent, number in enumerate(numbers, 1) if number == label)
    assert rows(
        run,
        "SELECT agent, correct, total FROM accuracy WHERE split = 'train' "
        "AND measure = 'single' AND agent IS NOT NULL ORDER BY agent",
    ) == [(agent, right[agent], 1319) for agent in (1, 2, 3, 4)]
    assert rows(
        run,
        "SELECT correct, total FROM accuracy WHERE split = 'train' AND measure = 'consensus'",
    ) == [(labels_right, 1319)]
    assert rows(
        run, "SELECT questions, labelled, tied, correct, label_accuracy FROM pseudo_labels"
    ) == [(1319, labelled, tied, labels_right, labels_right / labelled)]
    [(share, coverage, tie_rate)] = rows(
        run, "SELECT mean_share, coverage, tie_rate FROM consensus WHERE split = 'train'"
    )
    assert share == pytest.approx(sum(shares) / len(shares), abs=1e-12)
    assert (coverage, tie_rate) == (labelled / 1319, tied / 1319)
    per_agent = [(agent, learnt[agent]) for agent in (1, 2, 3, 4)]
    assert (
        rows(run, "SELECT agent, count(*) FROM generation_examples GROUP BY 1 ORDER BY 1")
        == rows(run, "SELECT agent, examples FROM datasets ORDER BY agent")
        == per_agent
    )


def test_the_replay_says_what_the_import_says(imported, replayed):
    for sql in (
        "SELECT * EXCLUDE (created_at, model_id) FROM turns ORDER BY turn_id",
        "SELECT * FROM votes ORDER BY ALL",
        "SELECT * FROM verdicts ORDER BY ALL",
        "SELECT * FROM dataset_examples ORDER BY ALL",
        "SELECT * EXCLUDE created_at FROM datasets ORDER BY dataset_id",
        # A variance's last digits follow the order in which DuckDB's threads come to the rows.
        "SELECT * REPLACE (round(standard_error, 12) AS standard_error, "
        "round(ci_low, 12) AS ci_low, round(ci_high, 12) AS ci_high) FROM accuracy ORDER BY ALL",
    ):
        assert rows(replayed, sql) == rows(imported, sql)

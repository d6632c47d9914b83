"""What `society.early_end` would have saved and changed in debates that were held whole.

    python benchmarks/early_end.py [RUN ...]

A RUN is a run's folder or its database, of `society run` or `society import`; without any, a short
experiment on the built-in model is held first. Every stored debate is replayed: it would have ended
after the first round in which all agents have a readable answer and agree, and the vote of that
round would have been its answer. A line per arm, split, decoding and iteration:

    ended     share of the debates that end before the last round; of three rounds, by round
    calls     share of the stage's calls (answers and summaries) that is saved
    tokens    the same of its tokens, of prompts and answers
    changed   votes that would be others: the whole debate leaves the answer on which all had agreed
    whole     share of the votes that is right, all rounds held; early: with early ends
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import duckdb

# Tables of the first version only, so that runs of any version can be read.
_STAGES = """
WITH asked AS (
    SELECT question_id, task FROM questions
),

heads AS (
    SELECT iteration, arm, split, decoding, question_id, count(DISTINCT agent) AS agents
    FROM turns
    WHERE kind = 'answer'
    GROUP BY ALL
),

debates AS (
    SELECT iteration, arm, split, decoding, question_id, max(round) AS rounds,
        coalesce(min(round) FILTER (votes = voters AND voters = agents), max(round)) AS held,
        list(struct_pack(answer, correct) ORDER BY round) AS votes
    FROM votes
    JOIN heads USING (iteration, arm, split, decoding, question_id)
    GROUP BY ALL
    HAVING max(round) > 1
),

spent AS (
    SELECT iteration, arm, split, decoding, question_id, count(*) AS calls,
        count_if(round > held) AS calls_saved,
        sum(prompt_tokens + completion_tokens) AS tokens,
        coalesce(sum(prompt_tokens + completion_tokens) FILTER (round > held), 0) AS tokens_saved
    FROM turns
    JOIN debates USING (iteration, arm, split, decoding, question_id)
    GROUP BY ALL
)

SELECT arm, split, task, decoding, iteration, count(*) AS debates,
    list_transform(range(1, max(rounds)::BIGINT), lambda r: list_count(
        list_filter(list(held), lambda h: h = r)) / count(*)) AS ended,
    sum(calls_saved) / sum(calls) AS calls,
    sum(tokens_saved) / nullif(sum(tokens), 0) AS tokens,
    count_if(votes[held].answer IS DISTINCT FROM votes[rounds].answer) AS changed,
    avg(votes[rounds].correct::DOUBLE) AS whole, avg(votes[held].correct::DOUBLE) AS early
FROM debates
JOIN spent USING (iteration, arm, split, decoding, question_id)
LEFT JOIN asked USING (question_id)
GROUP BY ALL
ORDER BY ALL
"""
_HEAD = ("arm", "split", "decoding", "it.", "debates", "ended", "calls", "tokens", "changed")
_SHORT = (
    "--set", "iterations=2", "--set", "train.questions=60", "--set", "evaluation.questions=60",
)  # fmt: skip


def print_stages(path: Path) -> None:
    """The table of one run."""
    database = path / "run.duckdb" if path.is_dir() else path
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        found = connection.execute(_STAGES).fetchall()
    print(f"\n{path}")
    head = ("{:16} {:6} {:8} {:>3} {:>8}" + " {:>11}" + " {:>7}" * 5).format
    print(head(*_HEAD, "whole", "early"))
    for arm, split, task, decoding, iteration, debates, ended, *shares in found:
        calls, tokens, changed, whole, early = shares
        by_round = " ".join(f"{share:.0%}" for share in ended)
        print(
            head(
                arm[:16], split, decoding, iteration, debates, by_round, _percent(calls),
                _percent(tokens), changed, _percent(whole), _percent(early),
            )
            + f"  {task}"
        )  # fmt: skip


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            command = [sys.executable, "-m", "society", "run", "demo", "--runs", folder]
            subprocess.run([*command, "--name", "short", *_SHORT], check=True)
            paths = [Path(folder) / "short"]
        for path in paths:
            print_stages(path)


if __name__ == "__main__":
    main()

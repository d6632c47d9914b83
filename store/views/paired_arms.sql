-- paired_arms: right or wrong, question by question, so that arms can be compared on the same ones.
-- Grain: one row per iteration, arm, split, task, decoding and question with known gold whose debate
--   is complete.
-- Columns: single (share 0..1 of agents right in round 1), any_right (some agent is right in round
--   1: no vote can do better), majority (vote of round 1), consensus (vote of the last round).
WITH firsts AS (
    SELECT iteration, arm, split, decoding, question_id,
        avg(v.correct::INTEGER) AS single, bool_or(v.correct) AS any_right
    FROM turns
    JOIN verdicts AS v USING (turn_id)
    WHERE kind = 'answer' AND round = 1 AND v.correct IS NOT NULL
    GROUP BY ALL
),

decided AS (
    SELECT iteration, arm, split, decoding, question_id,
        arg_min(correct, round) AS majority, arg_max(correct, round) AS consensus
    FROM votes
    WHERE correct IS NOT NULL AND split <> 'label'
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    question_id,
    single,
    any_right,
    majority,
    consensus
FROM decided
JOIN firsts USING (iteration, arm, split, decoding, question_id)
LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)

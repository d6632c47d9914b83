-- standing_answers: an agent's answer in every round, also in those that an early end has left out.
-- Grain: one row per iteration, arm, split, decoding, question, agent and round. In a debate that ended
--   early an agent's last answer stands for the rounds that were not held.
-- Columns: turn_id (the turn with the answer), answer, finish_reason, carried (whether the turn is of
--   an earlier round).
WITH spoken AS NOT MATERIALIZED (
    SELECT iteration, arm, split, decoding, question_id, agent, round, turn_id, answer,
        finish_reason
    FROM turns
    WHERE kind = 'answer'
),

left_out AS (
    SELECT iteration, arm, split, decoding, question_id, round, carried_from
    FROM votes
    WHERE carried_from IS NOT NULL
)

SELECT *, false AS carried
FROM spoken
UNION ALL
SELECT s.* REPLACE (l.round AS round), true AS carried
FROM spoken AS s
JOIN left_out AS l
    ON s.iteration = l.iteration AND s.arm = l.arm AND s.split = l.split
    AND s.decoding = l.decoding AND s.question_id = l.question_id AND s.round = l.carried_from

-- flips: what debating does to an agent's own answer, from round 1 to the debate's last round.
-- Grain: one row per iteration, arm, split, task, decoding and agent, where gold is known; agent
--   NULL = all agents together. Debates of one round do not count.
-- Columns: conversations, wrong_to_right, right_to_wrong, stayed_right, stayed_wrong (counts);
--   wrong_to_right_rate (share 0..1 of the conversations that began wrong), right_to_wrong_rate
--   (share 0..1 of those that began right); NULL where none began so.
WITH answers AS NOT MATERIALIZED (
    SELECT iteration, arm, split, decoding, agent, question_id, round, v.correct
    FROM turns
    JOIN verdicts AS v USING (turn_id)
    WHERE kind = 'answer' AND v.correct IS NOT NULL
),

last_rounds AS (
    SELECT iteration, arm, split, decoding, question_id, max(round) AS round
    FROM answers
    GROUP BY ALL
    HAVING max(round) >= 2
),

final_answers AS (
    SELECT * FROM answers
    SEMI JOIN last_rounds USING (iteration, arm, split, decoding, question_id, round)
),

conversations AS (
    SELECT iteration, arm, split, task, decoding, agent, f.correct AS first, l.correct AS final
    FROM (SELECT * FROM answers WHERE round = 1) AS f
    JOIN final_answers AS l USING (iteration, arm, split, decoding, agent, question_id)
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    agent,
    count(*) AS conversations,
    count_if(NOT first AND final) AS wrong_to_right,
    count_if(first AND NOT final) AS right_to_wrong,
    count_if(first AND final) AS stayed_right,
    count_if(NOT first AND NOT final) AS stayed_wrong,
    avg(final::DOUBLE) FILTER (WHERE NOT first) AS wrong_to_right_rate,
    avg((NOT final)::DOUBLE) FILTER (WHERE first) AS right_to_wrong_rate
FROM conversations
GROUP BY GROUPING SETS (
    (iteration, arm, split, task, decoding, agent), (iteration, arm, split, task, decoding))

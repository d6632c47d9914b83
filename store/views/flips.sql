-- flips: what debating does to an agent's own answer, from round 1 to the debate's last round.
-- Grain: one row per iteration, arm, split, task, decoding and agent, where gold is known; agent
--   NULL = all agents together. Debates of one round do not count; in
--   one that ended early, agents stand by their last answer.
-- Columns: conversations, wrong_to_right, right_to_wrong, stayed_right, stayed_wrong (counts);
--   wrong_to_right_rate (share 0..1 of the conversations that began wrong), right_to_wrong_rate
--   (share 0..1 of those that began right); NULL where none began so.
-- `label_flips` asks the same of ŷ; each names its own counts, so they are two queries.
WITH conversations AS (
    SELECT iteration, arm, split, decoding, agent, question_id,
        arg_min(v.correct, round) AS first, arg_max(v.correct, round) AS final
    FROM standing_answers
    JOIN verdicts AS v USING (turn_id)
    WHERE v.correct IS NOT NULL
    GROUP BY ALL
    HAVING max(round) >= 2
),

counted AS (
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
        count_if(NOT first AND NOT final) AS stayed_wrong
    FROM conversations
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    agent,
    sum(conversations)::BIGINT AS conversations,
    sum(wrong_to_right)::BIGINT AS wrong_to_right,
    sum(right_to_wrong)::BIGINT AS right_to_wrong,
    sum(stayed_right)::BIGINT AS stayed_right,
    sum(stayed_wrong)::BIGINT AS stayed_wrong,
    sum(wrong_to_right) / nullif(sum(wrong_to_right + stayed_wrong), 0) AS wrong_to_right_rate,
    sum(right_to_wrong) / nullif(sum(right_to_wrong + stayed_right), 0) AS right_to_wrong_rate
FROM counted
GROUP BY GROUPING SETS (
    (iteration, arm, split, task, decoding, agent), (iteration, arm, split, task, decoding))

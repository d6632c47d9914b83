-- label_flips: whether debating brings an agent's own answer to the debate's label ŷ; needs no gold.
-- Grain: one row per iteration, arm, split, task, decoding and agent, where there is a label; agent
--   NULL = all agents together. Debates of one round do not count; in
--   one that ended early, agents stand by their last answer.
-- Columns, from round 1 to the debate's last round: conversations, to_label (first answer ≢ ŷ, last
--   ≡ ŷ), from_label (the other way), with_label (both ≡ ŷ), without_label (neither) (counts);
--   to_label_rate and from_label_rate (shares 0..1 of the conversations).
WITH conversations AS (
    SELECT iteration, arm, split, decoding, agent, question_id,
        arg_min(v.agrees, round) AS first, arg_max(v.agrees, round) AS final
    FROM standing_answers
    JOIN verdicts AS v USING (turn_id)
    WHERE v.agrees IS NOT NULL
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
        count_if(NOT first AND final) AS to_label,
        count_if(first AND NOT final) AS from_label,
        count_if(first AND final) AS with_label,
        count_if(NOT first AND NOT final) AS without_label
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
    sum(to_label)::BIGINT AS to_label,
    sum(from_label)::BIGINT AS from_label,
    sum(with_label)::BIGINT AS with_label,
    sum(without_label)::BIGINT AS without_label,
    sum(to_label) / sum(conversations) AS to_label_rate,
    sum(from_label) / sum(conversations) AS from_label_rate
FROM counted
GROUP BY GROUPING SETS (
    (iteration, arm, split, task, decoding, agent), (iteration, arm, split, task, decoding))

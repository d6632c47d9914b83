-- generation_pairs: of what a generator may learn which answer is better.
-- Grain: one row per iteration, arm, agent and question where the agent has given, in its own words,
--   a readable answer ≡ ŷ and one ≢ ŷ: its first answer y_{1,n} and its last one y_{M,n}.
-- Columns: iteration, arm, agent (from 1), question_id, messages (JSON, the prompt of round 1 as
--   sent), chosen_turn_id (≡ ŷ), rejected_turn_id (≢ ŷ), chosen, rejected (their texts), sha256 (of
--   messages, chosen and rejected, with a line feed between).
-- Gold answers play no part: `agrees` compares with the debate's own label.
WITH answers AS NOT MATERIALIZED (
    SELECT iteration, arm, agent, question_id, round, turn_id, answer IS NOT NULL AS parsed,
        messages, response
    FROM turns
    WHERE split = 'train' AND decoding = 'sampled' AND kind = 'answer'
),

last_rounds AS (
    SELECT iteration, arm, question_id, max(round) AS round
    FROM answers
    GROUP BY ALL
    HAVING max(round) >= 2
),

-- What an agent has answered, in the order in which answers are preferred for the pair. More samples
-- of the same agent on the same prompt belong here, with a place between the two.
candidates AS (
    SELECT iteration, arm, agent, question_id, turn_id, parsed, response, 1 AS place
    FROM answers
    WHERE round = 1
    UNION ALL
    SELECT iteration, arm, agent, question_id, turn_id, parsed, response, 3 AS place
    FROM answers
    SEMI JOIN last_rounds USING (iteration, arm, question_id, round)
),

best AS (
    SELECT
        iteration,
        arm,
        agent,
        question_id,
        arg_min(struct_pack(turn_id, response), (place, turn_id)) FILTER (WHERE agrees) AS better,
        arg_min(struct_pack(turn_id, response), (place, turn_id))
            FILTER (WHERE NOT agrees) AS worse
    FROM candidates
    JOIN verdicts USING (turn_id)
    WHERE parsed
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    agent,
    question_id,
    f.messages,
    better.turn_id AS chosen_turn_id,
    worse.turn_id AS rejected_turn_id,
    better.response AS chosen,
    worse.response AS rejected,
    sha256(concat_ws(chr(10), f.messages, better.response, worse.response)) AS sha256
FROM best
JOIN (FROM answers WHERE round = 1) AS f USING (iteration, arm, agent, question_id)
WHERE better IS NOT NULL AND worse IS NOT NULL

-- critic_pairs: of what a critic may learn which answer is better.
-- Grain: one row per conversation in which exactly one of the agent's first answer y_{1,n} and its
--   last one y_{M,n}, M >= 2, is ≡ ŷ, both readable. A conversation is left out where one of the
--   agent's own answers has no text: a placeholder stands for it in the prompt.
-- Columns: iteration, arm, agent (from 1), question_id, messages (JSON, the conversation as sent in
--   round M), chosen_turn_id (≡ ŷ), rejected_turn_id (≢ ŷ), chosen, rejected (their texts), sha256
--   (of messages, chosen and rejected, with a line feed between).
-- Where the first answer is the better one, the critic learns to repeat it instead of leaving it.
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

judged AS (
    SELECT a.*, v.agrees
    FROM answers AS a
    JOIN verdicts AS v USING (turn_id)
    WHERE parsed AND v.agrees IS NOT NULL
),

-- White space as Python's str.strip() knows it, since that decided what the prompt shows.
silent AS (
    SELECT DISTINCT iteration, arm, agent, question_id
    FROM answers
    WHERE regexp_full_match(response, '[\s\v\x1c-\x1f\x85\p{Z}]*')
),

paired AS (
    SELECT
        f.iteration,
        f.arm,
        f.agent,
        f.question_id,
        l.messages,
        if(f.agrees, struct_pack(f.turn_id, f.response), struct_pack(l.turn_id, l.response))
            AS better,
        if(f.agrees, struct_pack(l.turn_id, l.response), struct_pack(f.turn_id, f.response))
            AS worse
    FROM (FROM judged WHERE round = 1) AS f
    JOIN (FROM judged SEMI JOIN last_rounds USING (iteration, arm, question_id, round)) AS l
        USING (iteration, arm, agent, question_id)
    ANTI JOIN silent USING (iteration, arm, agent, question_id)
    WHERE f.agrees <> l.agrees
)

SELECT
    iteration,
    arm,
    agent,
    question_id,
    messages,
    better.turn_id AS chosen_turn_id,
    worse.turn_id AS rejected_turn_id,
    better.response AS chosen,
    worse.response AS rejected,
    sha256(concat_ws(chr(10), messages, better.response, worse.response)) AS sha256
FROM paired

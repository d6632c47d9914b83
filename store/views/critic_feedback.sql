-- critic_feedback: which last answers a critic should give, and which not.
-- Grain: one row per readable answer of a debate's last round M, M >= 2, to a question that has a
--   label. A conversation is left out where one of the agent's own answers has no text: a placeholder
--   stands for it in the prompt.
-- Columns: iteration, arm, agent (from 1), question_id, turn_id, wanted (y_{M,n} ≡ ŷ), messages
--   (JSON, the conversation as sent in round M), response, sha256 (of the two).
-- Gold answers play no part: `agrees` compares with the debate's own label.
WITH answers AS NOT MATERIALIZED (
    SELECT iteration, arm, agent, question_id, round, turn_id, answer IS NOT NULL AS parsed,
        messages, response, sha256
    FROM turns
    WHERE split = 'train' AND decoding = 'sampled' AND kind = 'answer'
),

last_rounds AS (
    SELECT iteration, arm, question_id, max(round) AS round
    FROM answers
    GROUP BY ALL
    HAVING max(round) >= 2
),

-- White space as Python's str.strip() knows it, since that decided what the prompt shows.
silent AS (
    SELECT DISTINCT iteration, arm, agent, question_id
    FROM answers
    WHERE regexp_full_match(response, '[\s\v\x1c-\x1f\x85\p{Z}]*')
)

SELECT iteration, arm, agent, question_id, turn_id, v.agrees AS wanted, messages, response, sha256
FROM answers
SEMI JOIN last_rounds USING (iteration, arm, question_id, round)
JOIN verdicts AS v USING (turn_id)
ANTI JOIN silent USING (iteration, arm, agent, question_id)
WHERE parsed AND v.agrees IS NOT NULL

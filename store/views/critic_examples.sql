-- critic_examples: what a critic may learn.
-- Grain: one row per conversation that ends at ŷ: the agent's answer in the last round M that the
--   debate held, M >= 2, with y_{M,n} ≡ ŷ. So a debate that ended after round 1, because all agents
--   agreed, has none. A conversation is left out where one of the agent's own answers has no
--   text: a placeholder stands for it in the prompt, so there was nothing to correct.
-- Columns: iteration, arm, agent (from 1), question_id, change ('corrected': y_{1,n} ≢ ŷ, C−;
--   'kept': y_{1,n} ≡ ŷ, C+), turn_id (the final turn), first_turn_id (its round-1 answer),
--   messages (JSON, the conversation as sent in round M), response, sha256 (of the two).
-- Gold answers play no part: `agrees` compares with the debate's own label.
WITH answers AS NOT MATERIALIZED (
    SELECT iteration, arm, agent, round, question_id, turn_id, answer IS NOT NULL AS parsed,
        messages, response, sha256
    FROM turns
    WHERE split = 'train' AND decoding = 'sampled' AND kind = 'answer'
),

-- The last round of each debate, not of each agent: without an answer in it there is no example.
last_rounds AS (
    SELECT iteration, arm, question_id, max(round) AS round
    FROM answers
    GROUP BY ALL
    HAVING max(round) >= 2
),

final_answers AS (
    SELECT a.*
    FROM answers AS a
    SEMI JOIN last_rounds USING (iteration, arm, question_id, round)
    SEMI JOIN (SELECT turn_id FROM verdicts WHERE agrees) USING (turn_id)
    WHERE a.parsed
),

first_answers AS (
    SELECT iteration, arm, agent, question_id, turn_id, agrees AND parsed AS agrees
    FROM answers
    JOIN verdicts USING (turn_id)
    WHERE round = 1 AND agrees IS NOT NULL
),

-- White space as Python's str.strip() knows it, since that decided what the prompt shows.
silent AS (
    SELECT DISTINCT iteration, arm, agent, question_id
    FROM answers
    WHERE regexp_full_match(response, '[\s\v\x1c-\x1f\x85\p{Z}]*')
)

SELECT
    iteration,
    arm,
    agent,
    question_id,
    if(f.agrees, 'kept', 'corrected') AS change,
    l.turn_id,
    f.turn_id AS first_turn_id,
    l.messages,
    l.response,
    l.sha256
FROM final_answers AS l
JOIN first_answers AS f USING (iteration, arm, agent, question_id)
ANTI JOIN silent USING (iteration, arm, agent, question_id)

-- generation_examples: what a generator may learn.
-- Grain: one row per learnable round-1 answer: y_{1,n} ≡ ŷ, in the agent's own words.
-- Columns: iteration, arm, agent (from 1), question_id, turn_id (the turn that is learnt),
--   messages (JSON, the prompt as sent), response (the text that is learnt), sha256 (of the two).
-- Gold answers play no part: `agrees` compares with the debate's own label.
WITH agreeing AS (
    SELECT turn_id FROM verdicts WHERE agrees
),

first_answers AS (
    SELECT iteration, arm, agent, question_id, turn_id, messages, response, sha256
    FROM turns
    WHERE split = 'train' AND decoding = 'sampled' AND kind = 'answer'
        AND round = 1 AND answer IS NOT NULL
)

SELECT iteration, arm, agent, question_id, turn_id, messages, response, sha256
FROM first_answers
SEMI JOIN agreeing USING (turn_id)

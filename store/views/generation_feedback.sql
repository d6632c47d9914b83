-- generation_feedback: which first answers a generator should give, and which not.
-- Grain: one row per readable answer of round 1 to a question that has a label.
-- Columns: iteration, arm, agent (from 1), question_id, turn_id, wanted (y_{1,n} ≡ ŷ), messages
--   (JSON, the prompt as sent), response, sha256 (of the two).
-- Gold answers play no part: `agrees` compares with the debate's own label.
SELECT iteration, arm, agent, question_id, turn_id, v.agrees AS wanted, messages, response, sha256
FROM turns
JOIN verdicts AS v USING (turn_id)
WHERE split = 'train' AND decoding = 'sampled' AND kind = 'answer'
    AND round = 1 AND answer IS NOT NULL AND v.agrees IS NOT NULL

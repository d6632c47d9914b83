-- label_ties: whether the vote behind a debate's label ŷ was tied, so that a lot decided it.
-- Grain: one row per iteration, arm, split, decoding and question; complete debates only.
-- Columns: tied. ŷ is the vote of the last round; in training, of round 1 where the arm learns from
--   that. False where an arm learns from gold.
WITH ends AS (
    SELECT iteration, arm, split, decoding, question_id,
        arg_min(tie, round) AS first_tie, arg_max(tie, round) AS last_tie
    FROM votes
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    decoding,
    question_id,
    CASE
        WHEN split = 'eval' OR labels IS NULL OR labels = 'final' THEN last_tie
        WHEN labels = 'round1' THEN first_tie
        ELSE false
    END AS tied
FROM ends
LEFT JOIN (SELECT arm, labels FROM arms) USING (arm)

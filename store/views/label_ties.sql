-- label_ties: whether the vote behind a debate's label ŷ was tied, so that a lot decided it.
-- Grain: one row per iteration, arm, split, decoding and question; complete debates only.
-- Columns: tied. ŷ is the vote of the last round; in training, of round 1 where the arm, or
--   this iteration of it (`label_rounds`), learns from that, or a vote of its own (split 'label').
--   False where an arm learns from gold.
WITH ends AS (
    SELECT iteration, arm, if(split = 'label', 'train', split) AS split, decoding, question_id,
        arg_min(tie, round) FILTER (WHERE split <> 'label') AS first_tie,
        arg_max(tie, round) FILTER (WHERE split <> 'label') AS last_tie,
        any_value(tie) FILTER (WHERE split = 'label') AS label_tie
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
        WHEN label_tie IS NOT NULL THEN label_tie
        WHEN split = 'train' AND (labels = 'round1' OR label_round = 1) THEN first_tie
        WHEN split = 'eval' OR labels IS NULL OR labels = 'final' THEN last_tie
        ELSE false
    END AS tied
FROM ends
LEFT JOIN (SELECT arm, labels FROM arms) USING (arm)
LEFT JOIN (SELECT iteration, arm, round AS label_round FROM label_rounds) USING (iteration, arm)

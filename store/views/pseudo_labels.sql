-- pseudo_labels: how good the labels are that a society makes for itself. Reported, never used.
-- Grain: one row per iteration and arm, over the sampled debates on training questions.
-- Columns: questions, labelled (questions with ŷ), coverage (share 0..1), tied, tie_rate (share),
--   below_quorum (questions with fewer voters than a label takes), known (labels whose question has
--   gold), correct (labels equal to gold), label_accuracy (share of the known ones).
-- ŷ is the vote of the last round, or of round 1 where the arm learns from that. An arm that learns
--   from gold has its labels from nowhere else: labelled counts known gold, the rest is NULL.
WITH votes_of_arms AS (
    SELECT iteration, arm, question_id, round, answer, tie, correct,
        voters < coalesce(quorum, 1) AS below_quorum, coalesce(labels, 'final') AS labels,
        max(round) OVER (PARTITION BY iteration, arm, question_id) AS last_round
    FROM votes
    LEFT JOIN (SELECT arm, labels FROM arms) USING (arm)
    WHERE split = 'train' AND decoding = 'sampled'
),

-- One vote per question: that of the round which the arm learns from.
label_votes AS (
    SELECT iteration, arm, tie, below_quorum, correct, labels = 'gold' AS from_gold,
        if(labels = 'gold', correct IS NOT NULL, answer IS NOT NULL) AS has_label
    FROM votes_of_arms
    WHERE round = if(labels = 'round1', 1, last_round)
)

SELECT
    iteration,
    arm,
    count(*) AS questions,
    count_if(has_label)::BIGINT AS labelled,
    count_if(has_label) / count(*) AS coverage,
    if(from_gold, NULL, count_if(tie)) AS tied,
    if(from_gold, NULL, avg(tie::DOUBLE)) AS tie_rate,
    if(from_gold, NULL, count_if(below_quorum)) AS below_quorum,
    if(from_gold, NULL, count(correct) FILTER (WHERE has_label)) AS known,
    if(from_gold, NULL, count_if(correct AND has_label)) AS correct,
    if(from_gold, NULL, avg(correct::DOUBLE) FILTER (WHERE has_label)) AS label_accuracy
FROM label_votes
GROUP BY iteration, arm, from_gold

-- pseudo_labels: how good the labels are that a society makes for itself. Reported, never used.
-- Grain: one row per iteration and arm, over the sampled debates on training questions.
-- Columns: questions, labelled (questions with ŷ), coverage (share 0..1), tied, tie_rate (share),
--   below_quorum (questions with fewer voters than a label takes), known (labels whose question has
--   gold), correct (labels equal to gold), label_accuracy (share of the known ones).
-- ŷ as in `label_votes`. An arm that learns from gold has its labels from nowhere else: labelled
--   counts known gold, the rest is NULL.
WITH marked AS (
    SELECT iteration, arm, tie, voters < coalesce(quorum, 1) AS below_quorum, correct,
        source = 'gold' AS from_gold,
        if(source = 'gold', correct IS NOT NULL, answer IS NOT NULL) AS has_label
    FROM label_votes
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
FROM marked
GROUP BY iteration, arm, from_gold

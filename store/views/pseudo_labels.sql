-- pseudo_labels: how good the labels are that a society makes for itself. Reported, never used.
-- Grain: one row per iteration and arm, over the sampled debates on training questions.
-- Columns: questions, labelled (questions with ŷ), coverage (share 0..1), tied, tie_rate (share),
--   correct (labels equal to gold), label_accuracy (share of the labels whose question has gold).
WITH labels AS (
    SELECT iteration, arm, answer, tie, correct,
        round = max(round) OVER (PARTITION BY iteration, arm, question_id) AS is_last
    FROM votes
    WHERE split = 'train' AND decoding = 'sampled'
)

SELECT
    iteration,
    arm,
    count(*) AS questions,
    count(answer) AS labelled,
    count(answer) / count(*) AS coverage,
    count_if(tie) AS tied,
    avg(tie::DOUBLE) AS tie_rate,
    count_if(correct AND answer IS NOT NULL) AS correct,
    avg(correct::DOUBLE) FILTER (WHERE answer IS NOT NULL) AS label_accuracy
FROM labels
WHERE is_last
GROUP BY ALL

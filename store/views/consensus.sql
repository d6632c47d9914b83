-- consensus: how much the agents agree with each other.
-- Grain: one row per iteration, arm, split, task, decoding and round.
-- Columns: questions, mean_share (mean over questions with a parsed answer of the share 0..1 of
--   parsed answers that equal the plurality answer), coverage (share of questions with a label),
--   tie_rate (share of questions whose vote was tied), carried_rate (share of questions whose debate
--   had ended before, so that its last vote counts).
SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    round,
    count(*) AS questions,
    avg(votes / voters) FILTER (WHERE voters > 0) AS mean_share,
    avg((answer IS NOT NULL)::DOUBLE) AS coverage,
    avg(tie::DOUBLE) AS tie_rate,
    avg((carried_from IS NOT NULL)::DOUBLE) AS carried_rate
FROM votes
LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
GROUP BY ALL

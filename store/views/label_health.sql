-- label_health: whether the labels a society makes for itself are getting worse or running dry.
-- Grain: one row per iteration and arm that makes labels of its own, over the sampled debates on
--   training questions, in the round that the labels come from; in round 1 where a vote of its own
--   labels.
-- Columns: questions, coverage, tie_rate, known, label_accuracy (as in pseudo_labels); agreement (mean share
--   0..1 of parsed answers that equal the plurality answer), unanimous (share of the questions with
--   a parsed answer where all parsed answers agree), unparsed and truncated (shares of all answers),
--   top_share (share of the labels that are worded as the most common one, over all questions),
--   entropy_bits (Shannon entropy of the labels' wordings), and what changed against the iteration
--   before (…_change, same unit; NULL in an arm's first iteration).
WITH own_votes AS (
    SELECT iteration, arm, question_id, round, answer, votes, voters, share
    FROM label_votes
    WHERE source <> 'gold'
),

agreed AS (
    SELECT
        iteration,
        arm,
        avg(share) AS agreement,
        avg((votes = voters)::DOUBLE) FILTER (WHERE voters > 0) AS unanimous,
        entropy(answer) FILTER (WHERE answer IS NOT NULL) AS entropy_bits
    FROM own_votes
    GROUP BY ALL
),

wordings AS (
    SELECT iteration, arm, answer, count(*) AS labels
    FROM own_votes
    WHERE answer IS NOT NULL
    GROUP BY ALL
),

most_common AS (
    SELECT iteration, arm, max(labels) / sum(labels) AS top_share FROM wordings GROUP BY ALL
),

readings AS (
    SELECT
        iteration,
        arm,
        avg((t.answer IS NULL)::DOUBLE) AS unparsed,
        avg((finish_reason = 'length')::DOUBLE) AS truncated
    FROM standing_answers AS t
    SEMI JOIN own_votes USING (iteration, arm, question_id, round)
    WHERE split = 'train' AND decoding = 'sampled'
    GROUP BY ALL
),

joined AS (
    SELECT iteration, arm, questions, coverage, tie_rate, known, label_accuracy, agreement,
        unanimous, unparsed, truncated, top_share, entropy_bits
    FROM pseudo_labels
    JOIN agreed USING (iteration, arm)
    LEFT JOIN readings USING (iteration, arm)
    LEFT JOIN most_common USING (iteration, arm)
)

SELECT
    *,
    coverage - lag(coverage) OVER passes AS coverage_change,
    tie_rate - lag(tie_rate) OVER passes AS tie_rate_change,
    label_accuracy - lag(label_accuracy) OVER passes AS label_accuracy_change,
    agreement - lag(agreement) OVER passes AS agreement_change,
    unanimous - lag(unanimous) OVER passes AS unanimous_change,
    unparsed - lag(unparsed) OVER passes AS unparsed_change,
    truncated - lag(truncated) OVER passes AS truncated_change,
    top_share - lag(top_share) OVER passes AS top_share_change,
    entropy_bits - lag(entropy_bits) OVER passes AS entropy_bits_change
FROM joined
WINDOW passes AS (PARTITION BY arm ORDER BY iteration)

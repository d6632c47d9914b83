-- label_votes: the vote behind every label ŷ of a training question.
-- Grain: one row per iteration, arm and training question whose debate is complete.
-- Columns: source (where the arm's labels come from, see `arms.labels`), round (the round of the
--   debate whose answers have voted, or 1 for a vote of its own in split 'label'), answer (the label
--   ŷ, NULL where there is none), votes, voters, share (votes / voters, NULL without voters), tie,
--   correct, quorum, as in `votes`.
-- A vote in split 'label' comes before those of the debate; `label_rounds` may choose that of round 1.
--   In an arm that learns from gold the label is the gold answer, and this is the debate's last vote.
WITH deciding AS (
    SELECT
        iteration,
        arm,
        question_id,
        coalesce(any_value(labels), 'final') AS source,
        arg_max(
            struct_pack(round, answer, votes, voters, tie, correct, quorum),
            CASE
                WHEN split = 'label' THEN 2147483647
                WHEN labels = 'round1' OR label_round = 1 THEN -round
                ELSE round
            END
        ) AS vote
    FROM votes
    LEFT JOIN (SELECT arm, labels FROM arms) USING (arm)
    LEFT JOIN (SELECT iteration, arm, round AS label_round FROM label_rounds) USING (iteration, arm)
    WHERE split IN ('train', 'label') AND decoding = 'sampled'
    GROUP BY iteration, arm, question_id
)

SELECT
    iteration,
    arm,
    question_id,
    source,
    vote.round AS round,
    vote.answer AS answer,
    vote.votes AS votes,
    vote.voters AS voters,
    vote.votes / nullif(vote.voters, 0) AS share,
    vote.tie AS tie,
    vote.correct AS correct,
    vote.quorum AS quorum
FROM deciding

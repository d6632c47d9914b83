-- debates: what a debate came to, from its first vote to its last.
-- Grain: one row per iteration, arm, split, task, decoding and question; complete debates only.
-- Columns: position (order of the question within its split), rounds (the last round M),
--   first_answer and first_correct (vote of round 1), answer, votes, voters, tie and correct (vote of
--   round M), flip ('wrong_to_right', 'right_to_wrong', 'stayed_right', 'stayed_wrong', of the
--   vote; NULL without gold and in debates of one round).
WITH ends AS (
    SELECT
        iteration,
        arm,
        split,
        decoding,
        question_id,
        max(round) AS rounds,
        arg_min(struct_pack(answer, correct), round) AS opening,
        arg_max(struct_pack(answer, votes, voters, tie, correct), round) AS final
    FROM votes
    WHERE split <> 'label'
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    question_id,
    position,
    rounds,
    opening.answer AS first_answer,
    final.answer AS answer,
    final.votes AS votes,
    final.voters AS voters,
    final.tie AS tie,
    opening.correct AS first_correct,
    final.correct AS correct,
    CASE
        WHEN rounds < 2 OR opening.correct IS NULL OR final.correct IS NULL THEN NULL
        WHEN opening.correct THEN if(final.correct, 'stayed_right', 'right_to_wrong')
        ELSE if(final.correct, 'wrong_to_right', 'stayed_wrong')
    END AS flip
FROM ends
LEFT JOIN (SELECT question_id, task, position FROM questions) USING (question_id)

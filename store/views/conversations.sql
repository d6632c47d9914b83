-- conversations: one agent's way through one debate, from its first answer to its last.
-- Grain: one row per iteration, arm, split, task, decoding, question and agent; complete debates
--   only.
-- Columns: rounds (the last round M), first_turn_id, first_answer, first_agrees and first_correct
--   (round 1), turn_id, answer, agrees and correct (round M; of the last answer, where the debate
--   ended early). `agrees` compares with the debate's
--   label ŷ, `correct` with gold; both are NULL where there is none. tied: the vote that ŷ comes from
--   was tied.
WITH spoken AS NOT MATERIALIZED (
    SELECT iteration, arm, split, decoding, question_id, agent, round, turn_id, answer, agrees,
        correct
    FROM standing_answers
    JOIN verdicts USING (turn_id)
),

ends AS (
    SELECT
        iteration,
        arm,
        split,
        decoding,
        question_id,
        agent,
        max(round) AS rounds,
        arg_min(struct_pack(turn_id, answer, agrees, correct), round) AS opening,
        arg_max(struct_pack(turn_id, answer, agrees, correct), round) AS final
    FROM spoken
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    question_id,
    agent,
    rounds,
    opening.turn_id AS first_turn_id,
    opening.answer AS first_answer,
    opening.agrees AS first_agrees,
    opening.correct AS first_correct,
    final.turn_id AS turn_id,
    final.answer AS answer,
    final.agrees AS agrees,
    final.correct AS correct,
    coalesce(tied, false) AS tied
FROM ends
LEFT JOIN (FROM label_ties WHERE tied) USING (iteration, arm, split, decoding, question_id)
LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)

-- dissent: how often an agent's answer is not the society's, and whether it should have been.
-- Grain: one row per iteration, arm, split, task, decoding, round and agent; agent NULL = all agents
--   together. Only answers to questions with a label ŷ. In rounds that an early end has left out,
--   agents stand by their last answer.
-- Columns: answers, dissenting (answers that do not agree with ŷ, also unparsed ones), dissent_rate
--   (share 0..1; NULL without any answer), right_dissents (dissenting answers equal to gold),
--   right_rate (share of the dissenting answers with known gold that equal it; NULL without any):
--   all over votes without a tie. tied_answers and tied_dissenting count the same where the vote
--   behind ŷ was tied, and a lot has decided which answer is ŷ.
WITH marked AS NOT MATERIALIZED (
    SELECT iteration, arm, split, task, decoding, round, agent, v.agrees, v.correct,
        coalesce(tied, false) AS tied
    FROM standing_answers
    JOIN verdicts AS v USING (turn_id)
    LEFT JOIN (FROM label_ties WHERE tied) USING (iteration, arm, split, decoding, question_id)
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE v.agrees IS NOT NULL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    round,
    agent,
    count_if(NOT tied) AS answers,
    count_if(NOT tied AND NOT agrees) AS dissenting,
    avg((NOT agrees)::DOUBLE) FILTER (WHERE NOT tied) AS dissent_rate,
    count_if(NOT tied AND NOT agrees AND correct) AS right_dissents,
    avg(correct::DOUBLE) FILTER (WHERE NOT tied AND NOT agrees) AS right_rate,
    count_if(tied) AS tied_answers,
    count_if(tied AND NOT agrees) AS tied_dissenting
FROM marked
GROUP BY GROUPING SETS (
    (iteration, arm, split, task, decoding, round, agent),
    (iteration, arm, split, task, decoding, round))

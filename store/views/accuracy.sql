-- accuracy: how often answers equal gold, with 95 % intervals.
-- Grain: one row per iteration, arm, split, task, decoding, measure, agent and round, where gold is
--   known.
-- measure: 'single' (an agent's own answers; agent NULL = all agents together), 'majority'
--   (round-1 vote), 'consensus' (vote of the last round). No answer and no consensus are wrong. In
--   rounds that an early end has left out, the last answers and votes before count.
-- Columns: correct, total (answers, or votes), questions (distinct ones), accuracy (share 0..1),
--   standard_error (share), ci_low and ci_high (Wilson, share). Error and interval are clustered by
--   question, because agents' answers to one question are not independent: their n is the effective
--   number of answers p(1-p) / variance of the mean over questions (Korn & Graubard 1998), never
--   fewer than the questions nor more than the answers. `evals.intervals.rate` computes the same.
WITH marks AS NOT MATERIALIZED (
    SELECT iteration, arm, split, task, decoding, 'single' AS measure, agent, round, question_id,
        v.correct
    FROM standing_answers
    JOIN verdicts AS v USING (turn_id)
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE v.correct IS NOT NULL
),

-- One answer per question: the plain variance of a share holds, so n is the number of questions.
single_agents AS (
    SELECT iteration, arm, split, task, decoding, measure, agent, round,
        count_if(correct) AS correct, count(*) AS total, count(*) AS questions,
        NULL::DOUBLE AS variance
    FROM marks
    GROUP BY ALL
),

by_question AS (
    SELECT iteration, arm, split, task, decoding, measure, round, question_id,
        count_if(correct) AS correct, count(*) AS total
    FROM marks
    GROUP BY ALL
),

all_agents AS (
    SELECT iteration, arm, split, task, decoding, measure, NULL::INTEGER AS agent, round,
        sum(correct)::BIGINT AS correct, sum(total)::BIGINT AS total, count(*) AS questions,
        var_samp(correct / total) AS variance
    FROM by_question
    GROUP BY ALL
),

vote_marks AS NOT MATERIALIZED (
    SELECT 'majority' AS measure, iteration, arm, split, decoding, question_id, round, correct
    FROM votes
    WHERE round = 1 AND correct IS NOT NULL AND split <> 'label'
    UNION ALL
    SELECT 'consensus' AS measure, iteration, arm, split, decoding, question_id,
        max(round) AS round, arg_max(correct, round) AS correct
    FROM votes
    WHERE correct IS NOT NULL AND split <> 'label'
    GROUP BY ALL
),

votes_counted AS (
    SELECT iteration, arm, split, task, decoding, measure, NULL::INTEGER AS agent,
        max(round) AS round,
        count_if(correct) AS correct, count(*) AS total, count(*) AS questions,
        NULL::DOUBLE AS variance
    FROM vote_marks
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY iteration, arm, split, task, decoding, measure
),

counted AS (
    SELECT * FROM single_agents
    UNION ALL SELECT * FROM all_agents
    UNION ALL SELECT * FROM votes_counted
),

rates AS (
    SELECT *, correct / total AS p, 1.959963984540054 AS z,
        -- With no or only right answers the variance is 0 and says nothing about the dependence, so
        -- the smallest n is taken.
        CASE
            WHEN variance IS NULL OR correct IN (0, total) THEN questions::DOUBLE
            WHEN variance = 0 THEN total::DOUBLE
            ELSE least(total, greatest(questions, p * (1 - p) * questions / variance))
        END AS n
    FROM counted
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    measure,
    agent,
    round,
    correct,
    total,
    questions,
    p AS accuracy,
    sqrt(p * (1 - p) / n) AS standard_error,
    greatest(0, (p + z * z / (2 * n) - z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
        / (1 + z * z / n)) AS ci_low,
    least(1, (p + z * z / (2 * n) + z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
        / (1 + z * z / n)) AS ci_high
FROM rates

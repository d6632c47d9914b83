-- spend: what the run has paid, from stored turns, jobs and charges and the run's own prices.
-- Grain: one row per iteration, arm, split, task, decoding, stage, agent, role and model_id.
-- stage: 'debate' (training questions, with further answers that vote on labels), 'evaluate' (held-out ones), 'finetune' (jobs), 'diversity'
--   (likelihoods), 'ask' (`society ask`).
-- role: 'generator' (round 1), 'critic' (later rounds), 'summarizer'; of a job, whose model it tunes.
-- Columns: calls (answers asked for, or jobs the provider has taken), failed (attempts that brought
--   no answer), estimated (of both, those whose tokens the provider did not report: they count with
--   the most that they can have), prompt_tokens, completion_tokens, trained_tokens (NULL until the provider reports
--   them), usd (NULL if the price or the tokens are unknown). A job's split is 'train'; its task
--   and decoding are NULL, and model_id is NULL until it has made a model. Likelihoods have neither
--   task, agent nor role; the questions of `society ask` have neither split nor task.
-- A call that was in flight when a run was killed, or is in flight now, counts as failed. An answer
--   that an arm reuses from another is paid once, by the arm that asked first. Evaluation answers
--   of a run with `evaluation.batch` count at the price's batch_factor. Turns do not say whether a
--   vendor's cache applied: usd does not count it.
WITH asked AS (
    SELECT model_id, input_usd, output_usd, batch_factor
    FROM models
    LEFT JOIN prices
        ON prices.provider = models.provider AND prices.tuned = (models.artifact IS NOT NULL)
),

-- One row; NULL if the run's settings do not say.
batched AS (
    SELECT bool_or((config ->> '$.evaluation.batch')::BOOLEAN) AS evaluation FROM runs
),

spoken AS (
    SELECT
        iteration,
        arm,
        split,
        task,
        decoding,
        if(split = 'eval', 'evaluate', 'debate') AS stage,
        agent,
        CASE WHEN kind = 'summary' THEN 'summarizer' WHEN round = 1 THEN 'generator' ELSE 'critic' END
            AS role,
        model_id,
        count(*) AS calls,
        0 AS failed,
        count_if(tokens_estimated) AS estimated,
        sum(prompt_tokens) AS prompt_tokens,
        sum(completion_tokens) AS completion_tokens
    FROM turns
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE shared_turn_id IS NULL
    GROUP BY ALL
),

-- An attempt whose answer is a stored turn is that turn.
unspoken AS (
    SELECT * FROM charges
    WHERE state <> 'sent' OR turn_id IS NULL OR turn_id NOT IN (SELECT turn_id FROM turns)
),

charged AS (
    SELECT
        iteration,
        arm,
        split,
        task,
        decoding,
        stage,
        agent,
        role,
        model_id,
        count_if(state = 'answered') AS calls,
        count_if(state <> 'answered') AS failed,
        count_if(tokens_estimated) AS estimated,
        sum(prompt_tokens) AS prompt_tokens,
        sum(completion_tokens) AS completion_tokens
    FROM unspoken
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY ALL
),

answers AS (
    SELECT
        iteration,
        arm,
        split,
        task,
        decoding,
        stage,
        agent,
        role,
        model_id,
        sum(calls)::BIGINT AS calls,
        sum(failed)::BIGINT AS failed,
        sum(estimated)::BIGINT AS estimated,
        sum(prompt_tokens)::BIGINT AS prompt_tokens,
        sum(completion_tokens)::BIGINT AS completion_tokens
    FROM (FROM spoken UNION ALL BY NAME FROM charged)
    GROUP BY ALL
),

-- A job that made no model is priced as the run's only address, where it has only one.
sole AS (
    SELECT any_value(provider) AS provider FROM prices HAVING count(DISTINCT provider) = 1
),

trained AS (
    SELECT
        j.iteration,
        j.arm,
        j.agent,
        j.role,
        m.model_id,
        count(*) AS calls,
        CASE WHEN count(j.trained_tokens) = count(*) THEN sum(j.trained_tokens)::BIGINT END
            AS trained_tokens,
        any_value(p.training_usd) AS training_usd
    FROM jobs AS j
    LEFT JOIN models AS m ON m.job_id = j.job_id
    LEFT JOIN prices AS p
        ON p.provider = coalesce(m.provider, (FROM sole)) AND NOT p.tuned
    WHERE j.provider_job_id IS NOT NULL
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    stage,
    agent,
    role,
    model_id,
    calls,
    failed,
    estimated,
    prompt_tokens,
    completion_tokens,
    0::BIGINT AS trained_tokens,
    (prompt_tokens * input_usd + completion_tokens * output_usd) / 1e6
        * if(stage = 'evaluate' AND (FROM batched), coalesce(batch_factor, 1), 1) AS usd
FROM answers
LEFT JOIN asked USING (model_id)
UNION ALL
SELECT
    iteration,
    arm,
    'train' AS split,
    NULL::VARCHAR AS task,
    NULL::VARCHAR AS decoding,
    'finetune' AS stage,
    agent,
    role,
    model_id,
    calls,
    0::BIGINT AS failed,
    0::BIGINT AS estimated,
    0::BIGINT AS prompt_tokens,
    0::BIGINT AS completion_tokens,
    trained_tokens,
    trained_tokens * training_usd / 1e6 AS usd
FROM trained

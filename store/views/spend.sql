-- spend: what the run has paid, from stored turns and jobs and the prices the run was started with.
-- Grain: one row per iteration, arm, split, task, decoding, stage, agent, role and model_id.
-- stage: 'debate' (training questions), 'evaluate' (held-out ones), 'finetune' (jobs).
-- role: 'generator' (round 1), 'critic' (later rounds), 'summarizer'; of a job, whose model it tunes.
-- Columns: calls (answers asked for, or jobs the provider has taken), prompt_tokens,
--   completion_tokens, trained_tokens (NULL while the provider has not told), usd (NULL where the
--   price or the tokens are unknown). A job's split is 'train'; task and decoding are NULL, and
--   model_id is NULL until it has made a model.
-- What an arm has taken over from another was not paid again: the arm that asked first bears it.
-- Evaluation answers of a run with `evaluation.batch` count at the price's batch_factor. Turns do not
--   say whether a vendor's cache applied: usd does not count it.
WITH asked AS (
    SELECT model_id, input_usd, output_usd, batch_factor
    FROM models
    LEFT JOIN prices
        ON prices.provider = models.provider AND prices.tuned = (models.artifact IS NOT NULL)
),

batched AS (
    SELECT bool_or((config ->> '$.evaluation.batch')::BOOLEAN) AS evaluation FROM runs
),

answers AS (
    SELECT
        iteration,
        arm,
        split,
        task,
        decoding,
        if(split = 'train', 'debate', 'evaluate') AS stage,
        agent,
        CASE WHEN kind = 'summary' THEN 'summarizer' WHEN round = 1 THEN 'generator' ELSE 'critic' END
            AS role,
        model_id,
        count(*) AS calls,
        sum(prompt_tokens)::BIGINT AS prompt_tokens,
        sum(completion_tokens)::BIGINT AS completion_tokens
    FROM turns
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE shared_turn_id IS NULL
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
    0::BIGINT AS prompt_tokens,
    0::BIGINT AS completion_tokens,
    trained_tokens,
    trained_tokens * training_usd / 1e6 AS usd
FROM trained

-- progress: what is stored so far, for whoever watches a run.
-- Grain: one row per iteration, arm, split and decoding.
-- Columns: turns (answers), summaries, prompt_tokens, completion_tokens, debates (complete ones:
--   their votes are stored), started_at and last_at (UTC, first and latest stored turn).
WITH spoken AS (
    SELECT
        iteration,
        arm,
        split,
        decoding,
        count_if(kind = 'answer') AS turns,
        count_if(kind = 'summary') AS summaries,
        sum(prompt_tokens)::BIGINT AS prompt_tokens,
        sum(completion_tokens)::BIGINT AS completion_tokens,
        min(created_at) AS started_at,
        max(created_at) AS last_at
    FROM turns
    GROUP BY ALL
),

decided AS (
    SELECT iteration, arm, split, decoding, count_if(round = 1) AS debates
    FROM votes
    GROUP BY ALL
)

SELECT
    iteration,
    arm,
    split,
    decoding,
    turns,
    summaries,
    prompt_tokens,
    completion_tokens,
    coalesce(debates, 0) AS debates,
    started_at,
    last_at
FROM spoken
LEFT JOIN decided USING (iteration, arm, split, decoding)

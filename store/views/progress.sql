-- progress: how much of a run is stored so far.
-- Grain: one row per iteration, arm, split, task and decoding.
-- Columns: turns (answers), summaries, shared (turns of both kinds that took over another arm's
--   response), prompt_tokens and completion_tokens (of the others), debates (complete ones: their
--   votes are stored), started_at and last_at (UTC, first and latest stored turn).
WITH spoken AS (
    SELECT
        iteration,
        arm,
        split,
        task,
        decoding,
        count_if(kind = 'answer') AS turns,
        count_if(kind = 'summary') AS summaries,
        count(shared_turn_id) AS shared,
        coalesce(sum(prompt_tokens) FILTER (WHERE shared_turn_id IS NULL), 0)::BIGINT
            AS prompt_tokens,
        coalesce(sum(completion_tokens) FILTER (WHERE shared_turn_id IS NULL), 0)::BIGINT
            AS completion_tokens,
        min(created_at) AS started_at,
        max(created_at) AS last_at
    FROM turns
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY ALL
),

decided AS (
    SELECT iteration, arm, split, task, decoding, count_if(round = 1) AS debates
    FROM votes
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    GROUP BY ALL
)

SELECT
    s.iteration,
    s.arm,
    s.split,
    s.task,
    s.decoding,
    turns,
    summaries,
    shared,
    prompt_tokens,
    completion_tokens,
    coalesce(debates, 0) AS debates,
    started_at,
    last_at
FROM spoken AS s
LEFT JOIN decided AS d
    ON s.iteration = d.iteration AND s.arm = d.arm AND s.split = d.split
    AND s.decoding = d.decoding AND s.task IS NOT DISTINCT FROM d.task

-- readings: how many answers could be read, and how many were cut.
-- Grain: one row per iteration, arm, split, task, decoding, round and agent; agent NULL = all agents
--   together. All stored answers count, also those of debates that go on.
-- Columns: answers, unparsed (no answer could be read), truncated (cut at the token limit; they are
--   unparsed), failed (no response at all, see turns.error; they are unparsed), unparsed_rate,
--   truncated_rate and failed_rate (shares 0..1 of the answers).
WITH spoken AS NOT MATERIALIZED (
    SELECT iteration, arm, split, task, decoding, round, agent, answer IS NULL AS unparsed,
        finish_reason = 'length' AS truncated, finish_reason = 'error' AS failed
    FROM turns
    LEFT JOIN (SELECT question_id, task FROM questions) USING (question_id)
    WHERE kind = 'answer'
)

SELECT
    iteration,
    arm,
    split,
    task,
    decoding,
    round,
    agent,
    count(*) AS answers,
    count_if(unparsed)::BIGINT AS unparsed,
    count_if(truncated)::BIGINT AS truncated,
    count_if(failed)::BIGINT AS failed,
    avg(unparsed::DOUBLE) AS unparsed_rate,
    avg(truncated::DOUBLE) AS truncated_rate,
    avg(failed::DOUBLE) AS failed_rate
FROM spoken
GROUP BY GROUPING SETS (
    (iteration, arm, split, task, decoding, round, agent),
    (iteration, arm, split, task, decoding, round))

-- What is known of a fit beside its loss: how far it went from the base, and what it left out.
ALTER TABLE jobs ADD COLUMN base_kl DOUBLE;
ALTER TABLE jobs ADD COLUMN left_out BIGINT;

-- A training on this machine measures its validation loss and keeps no model but the last. DuckDB
-- cannot change a column of a table with a key, so the table is made anew.
CREATE TABLE checkpoints_renamed (
    job_id VARCHAR NOT NULL,
    step   INTEGER NOT NULL,
    model  VARCHAR,
    loss   DOUBLE,
    PRIMARY KEY (job_id, step)
);
INSERT INTO checkpoints_renamed SELECT job_id, step, model, loss FROM checkpoints;
DROP TABLE checkpoints;
ALTER TABLE checkpoints_renamed RENAME TO checkpoints;

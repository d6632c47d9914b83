-- What is kept of work at a vendor: the checkpoints of jobs, and the batches that were paid for.

CREATE TABLE checkpoints (
    job_id VARCHAR NOT NULL,
    step   INTEGER NOT NULL,
    model  VARCHAR NOT NULL,
    loss   DOUBLE,
    PRIMARY KEY (job_id, step)
);

CREATE TABLE batches (
    digest     VARCHAR PRIMARY KEY,
    provider   VARCHAR NOT NULL,
    batch_id   VARCHAR,
    custom_ids JSON NOT NULL,
    created_at TIMESTAMP NOT NULL
);

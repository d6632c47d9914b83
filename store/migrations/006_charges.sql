-- What was paid, or may have been, without a turn or a job to show for it: attempts that failed or
-- were lost, debates held in passing, likelihoods. Token counts that nobody has told are marked.

ALTER TABLE turns ADD COLUMN tokens_estimated BOOLEAN DEFAULT false;

CREATE TABLE charges (
    charge_id         VARCHAR PRIMARY KEY,
    state             VARCHAR NOT NULL CHECK (state IN ('sent', 'answered', 'failed', 'lost')),
    stage             VARCHAR NOT NULL CHECK (stage IN ('debate', 'evaluate', 'diversity', 'ask')),
    iteration         INTEGER,
    arm               VARCHAR,
    split             VARCHAR,
    decoding          VARCHAR,
    question_id       VARCHAR,
    agent             INTEGER,
    role              VARCHAR,
    model_id          VARCHAR NOT NULL,
    turn_id           BIGINT,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    tokens_estimated  BOOLEAN NOT NULL,
    created_at        TIMESTAMP NOT NULL
);

-- What a measurement of diversity has found out about single texts, so that it can go on.
CREATE TABLE likelihoods (
    model_id      VARCHAR NOT NULL,
    other_id      VARCHAR NOT NULL,
    sha256        VARCHAR NOT NULL,
    value         DOUBLE NOT NULL,
    tokens_sha256 VARCHAR,
    created_at    TIMESTAMP NOT NULL,
    PRIMARY KEY (model_id, other_id, sha256)
);

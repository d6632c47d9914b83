-- The tables of a run. Grain, units and meaning of every column: docs/schema.md.
-- turns, votes, verdicts and dataset_examples grow without bound and carry no index;
-- the ledger keeps them free of duplicates.

CREATE TABLE runs (
    name          VARCHAR PRIMARY KEY,
    config        JSON NOT NULL,
    config_sha256 VARCHAR NOT NULL,
    seed          BIGINT NOT NULL,
    versions      JSON NOT NULL,
    created_at    TIMESTAMP NOT NULL,
    finished_at   TIMESTAMP
);

CREATE TABLE questions (
    question_id VARCHAR PRIMARY KEY,
    task        VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    question    VARCHAR NOT NULL,
    gold        VARCHAR,
    iteration   INTEGER,
    position    INTEGER NOT NULL,
    meta        JSON
);

CREATE TABLE turns (
    turn_id           BIGINT NOT NULL,
    iteration         INTEGER NOT NULL CHECK (iteration >= 0),
    arm               VARCHAR NOT NULL,
    split             VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    decoding          VARCHAR NOT NULL CHECK (decoding IN ('sampled', 'greedy')),
    question_id       VARCHAR NOT NULL,
    agent             INTEGER NOT NULL CHECK (agent >= 1),
    round             INTEGER NOT NULL CHECK (round >= 1),
    kind              VARCHAR NOT NULL CHECK (kind IN ('answer', 'summary')),
    model_id          VARCHAR NOT NULL,
    messages          JSON NOT NULL,
    response          VARCHAR NOT NULL,
    answer            VARCHAR,
    finish_reason     VARCHAR NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    latency_ms        DOUBLE NOT NULL,
    error             VARCHAR,
    created_at        TIMESTAMP NOT NULL,
    sha256            VARCHAR NOT NULL
);

CREATE TABLE votes (
    iteration   INTEGER NOT NULL CHECK (iteration >= 0),
    arm         VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    decoding    VARCHAR NOT NULL CHECK (decoding IN ('sampled', 'greedy')),
    question_id VARCHAR NOT NULL,
    round       INTEGER NOT NULL CHECK (round >= 1),
    answer      VARCHAR,
    votes       INTEGER NOT NULL,
    voters      INTEGER NOT NULL,
    tie         BOOLEAN NOT NULL,
    correct     BOOLEAN
);

CREATE TABLE verdicts (
    turn_id BIGINT NOT NULL,
    agrees  BOOLEAN,
    correct BOOLEAN
);

CREATE TABLE datasets (
    dataset_id   VARCHAR PRIMARY KEY,
    iteration    INTEGER NOT NULL,
    arm          VARCHAR NOT NULL,
    agent        INTEGER NOT NULL CHECK (agent >= 0),
    role         VARCHAR NOT NULL CHECK (role IN ('generator', 'critic')),
    examples     BIGINT NOT NULL,
    sha256       VARCHAR NOT NULL,
    learn        VARCHAR NOT NULL CHECK (learn IN ('final', 'all')),
    seed         BIGINT NOT NULL,
    corrected    BIGINT,
    kept         BIGINT,
    w            DOUBLE,
    max_examples BIGINT,
    note         VARCHAR,
    created_at   TIMESTAMP NOT NULL
);

CREATE TABLE dataset_examples (
    dataset_id  VARCHAR NOT NULL,
    turn_id     BIGINT NOT NULL,
    question_id VARCHAR NOT NULL,
    position    BIGINT NOT NULL
);

CREATE TABLE jobs (
    job_id          VARCHAR PRIMARY KEY,
    iteration       INTEGER NOT NULL,
    arm             VARCHAR NOT NULL,
    agent           INTEGER NOT NULL CHECK (agent >= 0),
    role            VARCHAR NOT NULL CHECK (role IN ('generator', 'critic')),
    dataset_id      VARCHAR NOT NULL,
    digest          VARCHAR NOT NULL,
    status          VARCHAR NOT NULL CHECK (status IN (
        'intent', 'submitted', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')),
    provider_job_id VARCHAR,
    raw_status      VARCHAR,
    error           VARCHAR,
    trained_tokens  BIGINT,
    created_at      TIMESTAMP NOT NULL,
    finished_at     TIMESTAMP
);

CREATE TABLE models (
    model_id   VARCHAR PRIMARY KEY,
    provider   VARCHAR NOT NULL,
    parent_id  VARCHAR,
    artifact   VARCHAR,
    sha256     VARCHAR,
    dataset_id VARCHAR,
    job_id     VARCHAR,
    iteration  INTEGER,
    arm        VARCHAR,
    agent      INTEGER,
    role       VARCHAR CHECK (role IN ('generator', 'critic')),
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE training_points (
    job_id        VARCHAR NOT NULL,
    step          INTEGER NOT NULL,
    loss          DOUBLE NOT NULL,
    learning_rate DOUBLE NOT NULL,
    PRIMARY KEY (job_id, step)
);

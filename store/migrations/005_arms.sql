-- Several arms (the society, its baselines and ablations) in one run, what they share, and how
-- different the agents' answers and models are.

CREATE TABLE arms (
    arm      VARCHAR PRIMARY KEY,
    position INTEGER NOT NULL,
    kind     VARCHAR NOT NULL,
    labels   VARCHAR CHECK (labels IN ('final', 'round1', 'gold')),
    settings JSON NOT NULL
);

-- The turn, or the job, whose outcome this one has taken over, instead of asking or training again.
ALTER TABLE turns ADD COLUMN shared_turn_id BIGINT;
ALTER TABLE jobs ADD COLUMN shared_job_id VARCHAR;

CREATE TABLE diversity (
    iteration  INTEGER NOT NULL CHECK (iteration >= 0),
    arm        VARCHAR NOT NULL,
    split      VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    task       VARCHAR NOT NULL,
    decoding   VARCHAR NOT NULL CHECK (decoding IN ('sampled', 'greedy')),
    role       VARCHAR NOT NULL CHECK (role IN ('generator', 'critic')),
    measure    VARCHAR NOT NULL,
    responses  VARCHAR NOT NULL CHECK (responses IN ('all', 'agreeing')),
    encoder    VARCHAR NOT NULL,
    value      DOUBLE,
    low        DOUBLE,
    high       DOUBLE,
    questions  INTEGER NOT NULL,
    pairs      BIGINT NOT NULL,
    note       VARCHAR,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (iteration, arm, split, task, decoding, role, measure, responses, encoder)
);

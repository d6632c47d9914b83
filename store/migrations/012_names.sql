-- Two columns get the names of what they hold. `zero_shot` was also true for the stages of a
-- curriculum; `learn` said on which turns the loss falls. For one version the old names stay as
-- generated columns, so that stored queries go on answering.
-- DuckDB can neither add a generated column nor drop a column beside a key, so both tables are made
-- anew.
CREATE TABLE questions_renamed (
    question_id VARCHAR PRIMARY KEY,
    task        VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    question    VARCHAR NOT NULL,
    gold        VARCHAR,
    iteration   INTEGER,
    position    INTEGER NOT NULL,
    meta        JSON,
    is_extra    BOOLEAN NOT NULL,
    zero_shot   BOOLEAN GENERATED ALWAYS AS (is_extra) VIRTUAL
);
INSERT INTO questions_renamed
SELECT question_id, task, split, question, gold, iteration, position, meta, zero_shot
FROM questions;
DROP TABLE questions;
ALTER TABLE questions_renamed RENAME TO questions;

CREATE TABLE datasets_renamed (
    dataset_id   VARCHAR PRIMARY KEY,
    iteration    INTEGER NOT NULL,
    arm          VARCHAR NOT NULL,
    agent        INTEGER NOT NULL CHECK (agent >= 0),
    role         VARCHAR NOT NULL CHECK (role IN ('generator', 'critic')),
    examples     BIGINT NOT NULL,
    sha256       VARCHAR NOT NULL,
    loss_on      VARCHAR NOT NULL CHECK (loss_on IN ('final', 'all')),
    seed         BIGINT NOT NULL,
    corrected    BIGINT,
    kept         BIGINT,
    w            DOUBLE,
    max_examples BIGINT,
    note         VARCHAR,
    created_at   TIMESTAMP NOT NULL,
    learn        VARCHAR GENERATED ALWAYS AS (loss_on) VIRTUAL
);
INSERT INTO datasets_renamed
SELECT dataset_id, iteration, arm, agent, role, examples, sha256, learn, seed, corrected, kept, w,
    max_examples, note, created_at
FROM datasets;
DROP TABLE datasets;
ALTER TABLE datasets_renamed RENAME TO datasets;

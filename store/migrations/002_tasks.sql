-- Several tasks in one run: which evaluation questions belong to a task that is never trained on, and
-- which pairs of a training and an evaluation question are alike and were allowed to be.

CREATE TABLE allowed_overlaps (
    train_question_id VARCHAR NOT NULL,
    eval_question_id  VARCHAR NOT NULL,
    similarity        DOUBLE NOT NULL CHECK (similarity BETWEEN 0 AND 1),
    exact             BOOLEAN NOT NULL,
    allowed_at        TIMESTAMP NOT NULL,
    PRIMARY KEY (train_question_id, eval_question_id)
);

-- DuckDB cannot add a NOT NULL column to a table with a key, so the table is made anew.
CREATE TABLE questions_with_tasks (
    question_id VARCHAR PRIMARY KEY,
    task        VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'eval')),
    question    VARCHAR NOT NULL,
    gold        VARCHAR,
    iteration   INTEGER,
    position    INTEGER NOT NULL,
    meta        JSON,
    zero_shot   BOOLEAN NOT NULL
);
INSERT INTO questions_with_tasks SELECT *, false FROM questions;
DROP TABLE questions;
ALTER TABLE questions_with_tasks RENAME TO questions;

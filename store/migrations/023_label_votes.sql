-- Labels may come from more voters than the debate has: from further first answers, of the society
-- itself or of an earlier or averaged one. Their turns and votes are in split 'label'; `sample` tells
-- several first answers of one agent apart.
-- DuckDB cannot change a check, so the tables are made anew, their rows in the same order.
CREATE TABLE turns_remade (
    turn_id           BIGINT NOT NULL,
    iteration         INTEGER NOT NULL CHECK (iteration >= 0),
    arm               VARCHAR NOT NULL,
    split             VARCHAR NOT NULL CHECK (split IN ('train', 'eval', 'label')),
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
    sha256            VARCHAR NOT NULL,
    shared_turn_id    BIGINT,
    tokens_estimated  BOOLEAN DEFAULT false,
    failure           VARCHAR,
    thought           VARCHAR,
    sample            INTEGER NOT NULL DEFAULT 0
);
INSERT INTO turns_remade
SELECT turn_id, iteration, arm, split, decoding, question_id, agent, round, kind, model_id, messages,
    response, answer, finish_reason, prompt_tokens, completion_tokens, latency_ms, error, created_at,
    sha256, shared_turn_id, tokens_estimated, failure, thought, 0
FROM turns;
DROP TABLE turns;
ALTER TABLE turns_remade RENAME TO turns;

CREATE TABLE votes_remade (
    iteration    INTEGER NOT NULL CHECK (iteration >= 0),
    arm          VARCHAR NOT NULL,
    split        VARCHAR NOT NULL CHECK (split IN ('train', 'eval', 'label')),
    decoding     VARCHAR NOT NULL CHECK (decoding IN ('sampled', 'greedy')),
    question_id  VARCHAR NOT NULL,
    round        INTEGER NOT NULL CHECK (round >= 1),
    answer       VARCHAR,
    votes        INTEGER NOT NULL,
    voters       INTEGER NOT NULL,
    tie          BOOLEAN NOT NULL,
    correct      BOOLEAN,
    quorum       INTEGER,
    carried_from INTEGER
);
INSERT INTO votes_remade
SELECT iteration, arm, split, decoding, question_id, round, answer, votes, voters, tie, correct,
    quorum, carried_from
FROM votes;
DROP TABLE votes;
ALTER TABLE votes_remade RENAME TO votes;

-- Labels may also come from a society of some iterations before ('lagged:1'), or an averaged one.
CREATE TABLE arms_remade (
    arm      VARCHAR PRIMARY KEY,
    position INTEGER NOT NULL,
    kind     VARCHAR NOT NULL,
    labels   VARCHAR CHECK (
        labels IN ('final', 'round1', 'gold', 'average') OR starts_with(labels, 'lagged:')),
    settings JSON NOT NULL
);
INSERT INTO arms_remade SELECT arm, position, kind, labels, settings FROM arms;
DROP TABLE arms;
ALTER TABLE arms_remade RENAME TO arms;

-- What an averaged model is made of.
CREATE TABLE averages (
    model_id  VARCHAR NOT NULL,
    parent_id VARCHAR NOT NULL,
    weight    DOUBLE NOT NULL,
    PRIMARY KEY (model_id, parent_id)
);
ALTER TABLE models ADD COLUMN truncation DOUBLE;

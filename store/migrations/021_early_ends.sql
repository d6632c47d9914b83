-- The round whose vote a later round repeats, where the debate ended because all agents agreed; NULL
-- in rounds that were held.
ALTER TABLE votes ADD COLUMN carried_from INTEGER;

-- The round whose vote labels an iteration's training questions, where the votes decide that.
CREATE TABLE label_rounds (
    iteration   INTEGER NOT NULL CHECK (iteration >= 1),
    arm         VARCHAR NOT NULL,
    round       INTEGER NOT NULL CHECK (round >= 1),
    questions   INTEGER NOT NULL,
    first_share DOUBLE NOT NULL,
    last_share  DOUBLE NOT NULL,
    low         DOUBLE NOT NULL,
    high        DOUBLE NOT NULL,
    created_at  TIMESTAMP NOT NULL,
    PRIMARY KEY (iteration, arm)
);

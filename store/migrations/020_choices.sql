-- Which iteration's society is the arm's, and whether its training stops: decided without gold.

CREATE TABLE choices (
    arm        VARCHAR NOT NULL,
    iteration  INTEGER NOT NULL,
    chosen     INTEGER NOT NULL,
    stops      BOOLEAN NOT NULL,
    iterations INTEGER NOT NULL,
    reason     VARCHAR NOT NULL,
    signs      JSON NOT NULL,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (arm, iteration)
);

-- Every start of the run: under which software, on which machine, and whether the file was closed.

CREATE TABLE run_starts (
    started_at TIMESTAMP PRIMARY KEY,
    process    BIGINT NOT NULL,
    versions   JSON NOT NULL,
    machine    JSON NOT NULL,
    closed_at  TIMESTAMP
);

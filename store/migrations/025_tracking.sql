-- Where the run's figures are logged besides this file, and which of them a tracker has.

CREATE TABLE tracker_runs (
    tracker        VARCHAR PRIMARY KEY,
    tracker_run_id VARCHAR NOT NULL,
    created_at     TIMESTAMP NOT NULL
);

CREATE TABLE tracked_figures (
    tracker    VARCHAR NOT NULL,
    figure     VARCHAR NOT NULL,
    step       INTEGER NOT NULL,
    value      DOUBLE NOT NULL,
    created_at TIMESTAMP NOT NULL,
    PRIMARY KEY (tracker, figure, step)
);

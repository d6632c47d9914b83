-- Which stage of the curriculum each iteration trains on, where the votes decide it.
CREATE TABLE curriculum_steps (
    iteration        INTEGER PRIMARY KEY,
    curriculum_stage INTEGER NOT NULL,
    task             VARCHAR NOT NULL,
    arm              VARCHAR,
    agreement        DOUBLE
);

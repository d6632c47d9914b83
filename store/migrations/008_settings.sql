-- Settings that were changed between two starts of a run, and what each job was trained with.

CREATE TABLE setting_changes (
    changed_at TIMESTAMP NOT NULL,
    key        VARCHAR NOT NULL,
    before     JSON,
    now        JSON,
    PRIMARY KEY (changed_at, key)
);

-- NULL in jobs of earlier versions, all of which had the settings of their run.
ALTER TABLE jobs ADD COLUMN settings JSON;

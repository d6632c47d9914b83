-- What a row of a dataset counts in training, and by which rule a critic's rows were chosen.
ALTER TABLE dataset_examples ADD COLUMN weight DOUBLE DEFAULT 1;
ALTER TABLE dataset_examples ALTER COLUMN weight SET NOT NULL;
ALTER TABLE datasets ADD COLUMN critics VARCHAR;
UPDATE datasets SET critics = 'sample' WHERE role = 'critic';

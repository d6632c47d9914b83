-- A dataset of preferences: the worse answer of a pair, or whether an answer is one to give. And what
-- a step of such a training says beside its loss.
ALTER TABLE dataset_examples ADD COLUMN rejected_turn_id BIGINT;
ALTER TABLE dataset_examples ADD COLUMN wanted BOOLEAN;
ALTER TABLE training_points ADD COLUMN reward_margin DOUBLE;
ALTER TABLE training_points ADD COLUMN reward_accuracy DOUBLE;

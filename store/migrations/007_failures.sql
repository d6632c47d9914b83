-- Turns whose request failed: what kind of failure it was, which says whether it is asked again.

ALTER TABLE turns ADD COLUMN failure VARCHAR;

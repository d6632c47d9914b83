-- What a model thought before it answered, where the thought is no part of the response: a server has
-- returned it apart, or it never came to its end.
ALTER TABLE turns ADD COLUMN thought VARCHAR;

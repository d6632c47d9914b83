-- What turns the stored conversations into the text that a model of this machine reads.

CREATE TABLE chat_templates (
    provider   VARCHAR PRIMARY KEY,
    sha256     VARCHAR NOT NULL,
    template   VARCHAR NOT NULL,
    variables  JSON NOT NULL,
    created_at TIMESTAMP NOT NULL
);

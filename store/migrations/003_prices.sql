-- What the run pays: one row per address and kind of model (bare base, or tuned from it).

CREATE TABLE prices (
    provider         VARCHAR NOT NULL,
    tuned            BOOLEAN NOT NULL,
    input_usd        DOUBLE NOT NULL CHECK (input_usd >= 0),
    output_usd       DOUBLE NOT NULL CHECK (output_usd >= 0),
    cached_input_usd DOUBLE,
    training_usd     DOUBLE,
    batch_factor     DOUBLE,
    read_on          DATE,
    source           VARCHAR NOT NULL,
    PRIMARY KEY (provider, tuned)
);

"""Everything vendor-specific: how to talk to a model, and how to fine-tune it.

`base` has the contract, `types` the data that passes and `errors` the error tree; `registry` turns
an address such as ``embedded:`` or ``local:PATH`` into a provider. This package imports none of the
other four.
"""

"""Everything vendor-specific: how to talk to a model, and how to fine-tune it.

`base` holds the seam that callers use, `errors` the error tree, `registry` turns an address such
as ``embedded:`` or ``local:PATH`` into a provider. Nothing here imports the other packages.
"""

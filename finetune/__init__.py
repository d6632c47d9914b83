"""From stored debates to tuned models.

`datasets` derives what each model is trained on (`dataset_rows`, `mixture`, and `selection` for the
user's own SQL), `examples` reads the conversations of a dataset, `plans` describes one fine-tuning
job, `tuner` sees one through, and `jobs` runs all jobs of an iteration.
"""

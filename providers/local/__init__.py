"""Models in this process, through transformers and PEFT: one base in memory, many adapters on it.

`factory` is what the registry calls. `engine` owns the device and batches what is waiting; `decode`
and `padded` draw the tokens; `jobs` and `train` fine-tune; `models` and `backbone` hold the
weights.
"""

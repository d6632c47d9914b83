"""Models in this process, through transformers and PEFT: one base in memory, many adapters on it.

- Opening a model: `factory` (what the registry calls), `settings`, `source` (where its files are),
  `gguf_header`, `file_checks`, `architecture` (whether it can answer), `quantization`,
  `generation_config` (how its authors sample), `preflight`; `provider` is the connection itself.
- Weights: `loading` reads them, with the `attention` and the `placement` that fit; `backbone` holds
  the base and full fine-tunes, `adapters` the LoRA adapters; `hardware` knows the device.
- Memory: `memory` estimates it from `weights` and `machine`; `shortage` says what would fit.
- Answering: `engine` owns the device and batches the waiting `work`; `conversation` makes token
  ids; `decode` draws tokens for `rows` with the key-value cache of `slot_cache`; `scoring` gives
  log-probabilities and divergences.
- Training: `jobs` runs `train`, which takes the steps of `fit` on the micro-batches of `loss` and
  keeps a `checkpoint`.
"""

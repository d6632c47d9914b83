"""OpenAI, and every server that speaks its API: chat, fine-tuning jobs, batches.

`address` reads ``openai:MODEL`` and ``openai+URL:MODEL``, `settings` the user's `[provider]` table.
Importing either of them, or `factory`, does not import the openai package.
"""

"""OpenAI, and every server with the same API: chat, fine-tuning jobs, batches.

`settings` parses ``openai:MODEL`` and ``openai+URL:MODEL`` and the user's `[provider]` table.
Importing it or `factory` does not import the openai package.
"""

"""Google's Gemini models: chat, and tuning jobs on Vertex AI (Gemini Enterprise Agent Platform)."""

"""The embedded model's own process: an OpenAI-style server around a transformers model."""

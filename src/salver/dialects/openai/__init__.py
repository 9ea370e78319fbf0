"""OpenAI's API: chat, completions, embeddings, models."""

from salver.feature import Feature

feature = Feature(
    "openai",
    "salver.dialects.openai.building:build",
    after=("triton",),
)

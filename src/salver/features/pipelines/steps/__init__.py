"""Steps of pipelines: what they are, how they are found, and those that come with Salver."""

"""Amazon SageMaker and Google Vertex AI: the routes and environment of their containers."""

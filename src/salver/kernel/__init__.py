"""Parts that every server runs: engines, life cycle, repository, and the path of one request."""

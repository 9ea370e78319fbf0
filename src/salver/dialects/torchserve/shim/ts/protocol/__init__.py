"""Messages of handlers to the server."""

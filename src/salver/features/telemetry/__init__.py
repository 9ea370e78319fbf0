"""What does the server tell its operators? Metrics, statistics and logs, from events and on request."""

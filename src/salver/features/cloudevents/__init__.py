"""CloudEvents: requests and answers sent to a URL as KServe's logger does, and requests that are events."""

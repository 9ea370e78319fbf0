"""Identity: callers whom others vouch for, by a JWT, a client certificate or a trusted proxy."""

"""What stands between a protocol's bodies and a handler's data, as archives and configurations name it."""

"""systemd: sockets that it hands over, and what it is told of start, health, reload and stop."""

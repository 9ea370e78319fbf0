"""Output of commands: tables, JSON, progress bars and pictures."""

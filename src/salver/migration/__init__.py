"""Reports on another server's deployment, and the files that replace it."""

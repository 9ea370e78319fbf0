"""Database for everything that outlives the server.

Models and their aliases, releases and their evidence, outcomes: rows of one database, SQLite or PostgreSQL,
written in one transaction at a time. It does not know the meaning of a row.
"""

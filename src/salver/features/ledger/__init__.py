"""Where is it kept what must outlive the server?

Models and their aliases, releases and their evidence, outcomes: rows of one database, SQLite or PostgreSQL,
written in one transaction at a time. It knows no meaning of a row.
"""

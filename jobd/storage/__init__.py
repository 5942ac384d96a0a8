"""Where job records are kept: SQLite, and a twin in memory for tests and for the worker library alone."""

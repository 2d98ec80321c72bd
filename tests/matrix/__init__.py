"""The matrix of permissions: the table that people read, and what it takes to call each of its cells."""

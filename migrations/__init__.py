"""The database's tables, step by step: small, forward only, each fitting the release before it."""

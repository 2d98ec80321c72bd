"""Who may do what: principals, API keys, and one pure policy."""

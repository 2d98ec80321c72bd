"""Routes: each parses, calls one flow and shapes the answer."""

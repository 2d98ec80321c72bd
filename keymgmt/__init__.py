"""Keys: the only room where raw key bytes exist.

Knows neither rows nor buckets: callers hand in contexts and byte streams and keep what comes back.
"""

"""The edge: HTTP, command line, worker loop, settings, composition root."""

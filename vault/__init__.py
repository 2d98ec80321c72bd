"""The vault: documents, their versions and their memory."""

"""The access log: who did what to which document, and who was refused."""

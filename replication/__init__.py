"""Replication: the second copy of every object, made from ciphertext and read back before it counts."""

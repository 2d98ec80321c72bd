"""Object stores: where ciphertext lies, one store per site."""

"""Recovery: an offline key opens documents when the KMS is lost for good, and shredding holds against it."""

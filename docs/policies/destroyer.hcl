# Only for whoever gives up a vault for good: a KEK and all that was ever wrapped under it. No process runs with it.

path "transit/keys/strongroom-*" {
  capabilities       = ["read", "update", "delete"]
  allowed_parameters = { "deletion_allowed" = [true] }
}

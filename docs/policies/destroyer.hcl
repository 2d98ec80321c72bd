# Only for whoever gives up a vault for good: a KEK and all that was ever wrapped under it. No process runs with it.

path "transit/keys/strongroom-+/config"       { capabilities = ["update"] }
path "transit/keys/strongroom-*"              { capabilities = ["read", "delete"] }

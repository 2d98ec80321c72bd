# What the service, and its worker, need of Transit: wrap, unwrap, and the life of the KEKs that their jobs lead.
# For a mount `transit` and names that start with `strongroom-`; OpenBao and HashiCorp Vault read this file alike.
# Nothing here exports a key, creates one by a mistyped name (`create` on encrypt), or deletes one.

path "transit/datakey/plaintext/strongroom-*" { capabilities = ["update"] }
path "transit/encrypt/strongroom-*"           { capabilities = ["update"] }
path "transit/decrypt/strongroom-*"           { capabilities = ["update"] }
path "transit/rewrap/strongroom-*"            { capabilities = ["update"] }

# `create`: the first start makes the KEKs. Take it away afterwards, if somebody else is to make keys.
path "transit/keys/strongroom-*"              { capabilities = ["create", "read", "update"] }
path "transit/keys/strongroom-+/rotate"       { capabilities = ["update"] }

# Retirement and crypto-shredding. Without these two, `key retire` and `key shred` are refused, and all else works.
path "transit/keys/strongroom-+/config"       { capabilities = ["update"] }
path "transit/keys/strongroom-+/trim"         { capabilities = ["update"] }

# Its own token, and what `strongroom doctor` asks.
path "auth/token/renew-self"                  { capabilities = ["update"] }
path "sys/capabilities-self"                  { capabilities = ["update"] }

# What the service, and its worker, need of Transit: wrap, unwrap, and the life of the KEKs that their jobs lead.
# For a mount `transit` and names that start with `strongroom-`; OpenBao and HashiCorp Vault read this file alike.
# Nothing here exports a key, creates one by a mistyped name (`create` on encrypt), or deletes one.

path "transit/datakey/plaintext/strongroom-*" { capabilities = ["update"] }
path "transit/encrypt/strongroom-*"           { capabilities = ["update"] }
path "transit/decrypt/strongroom-*"           { capabilities = ["update"] }
path "transit/rewrap/strongroom-*"            { capabilities = ["update"] }

# To create a key, rotate it, configure it and trim it: paths that no pattern tells apart (`+` stands for a whole part
# of a path only), so the parameters do. Others, with which a key could be exported or deleted, are refused.
path "transit/keys/strongroom-*" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "type"                   = ["aes256-gcm96"]
    "derived"                = [true]
    "exportable"             = [false]
    "allow_plaintext_backup" = [false]
    # Retirement and crypto-shredding. Without these three, `key retire` and `key shred` are refused, and all else works.
    "min_decryption_version" = []
    "min_encryption_version" = []
    "min_available_version"  = []
  }
}

# Its own token, and what `strongroom doctor` asks.
path "auth/token/renew-self"                  { capabilities = ["update"] }
path "sys/capabilities-self"                  { capabilities = ["update"] }

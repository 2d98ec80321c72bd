# The key fire-drill and restore drills: they unwrap, and change nothing.

path "transit/decrypt/strongroom-documents"   { capabilities = ["update"] }
path "transit/decrypt/strongroom-backups"     { capabilities = ["update"] }
path "transit/keys/strongroom-documents"      { capabilities = ["read"] }
path "transit/keys/strongroom-backups"        { capabilities = ["read"] }

path "auth/token/renew-self"                  { capabilities = ["update"] }
path "sys/capabilities-self"                  { capabilities = ["update"] }

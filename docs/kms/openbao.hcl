# One member of an OpenBao cluster; docs/production.md says how three of them span both sites.
storage "raft" {
  path    = "/openbao/raft"
  node_id = "openbao"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "0.0.0.0:8201"
  tls_cert_file   = "/run/secrets/kms-certificate"
  tls_key_file    = "/run/secrets/kms-key"
}

api_addr     = "https://openbao:8200"
cluster_addr = "https://openbao:8201"

# Memory of a container is not locked: give the host no swap, or an encrypted one.
disable_mlock = true
ui            = false

#!/bin/sh
# Redis with two users: `sightline` may work on its own keys and channels and change nothing of the server; `default` is off. Passwords reach
# the server as hashes in a file of its own, never on a command line. Needs REDIS_PASSWORD; REDIS_RUN is a folder that may be written to.
set -eu
run=${REDIS_RUN:-/tmp}
hash=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d ' ' -f 1)
umask 077
cat > "$run/users.acl" <<EOF
user default off
user sightline on #$hash ~sightline:* &* +@all -@admin -@dangerous +info +config|get
EOF
unset REDIS_PASSWORD
# Nothing may be evicted: what does not fit is refused, and stays in Postgres. A crash loses at most a second, which the ledger rings again.
exec redis-server --dir "${REDIS_DATA:-/data}" --aclfile "$run/users.acl" \
  --maxmemory "${REDIS_MEMORY:-512mb}" --maxmemory-policy noeviction --appendonly yes --appendfsync everysec --save '' "$@"

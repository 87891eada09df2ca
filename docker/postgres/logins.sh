#!/bin/sh
# Make the logins of the services; the arguments are psql's, and the passwords stand in no command line.
set -eu
psql "$@" --no-psqlrc --quiet --file - <<EOF
\\set worker '$WORKER_PASSWORD'
\\set app '$APP_PASSWORD'
\\set monitor '$MONITOR_PASSWORD'
\\i $(dirname "$0")/logins.sql
EOF

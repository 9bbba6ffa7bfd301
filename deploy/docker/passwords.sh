#!/bin/sh
# Run once by the database's image, after roles.sql: the roles' passwords, from files, as variables that no log shows.
set -eu
for role in app owner maint; do
    password=$(cat "/run/secrets/r1_${role}_password")
    printf "ALTER ROLE r1_%s PASSWORD '%s';\n" "$role" "$password" \
        | psql --quiet -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB"
done

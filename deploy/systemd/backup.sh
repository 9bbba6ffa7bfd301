#!/bin/sh
# Rows without keys, keys without rows, the ledger of erasures: each under BACKUP_DIR, as r1_backup. A dump that breaks off
# leaves only a `.part`. Keys older than their retention go: a receipt promises that. Restore: deploy/guide/deployment.md.
set -eu
umask 077
: "${BACKUP_DIR:=/var/backups/r1-memory}"
: "${MEMORY_KEY_BACKUP_RETENTION_DAYS:=30}"
: "${DATABASE_BACKUP_URL_FILE:?names the file with the address of r1_backup}"
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
at=$(date -u +%Y%m%dT%H%M%SZ)
mkdir -p "$BACKUP_DIR/rows" "$BACKUP_DIR/keys" "$BACKUP_DIR/ledger"

# The ledger first: who is erased meanwhile is in the next one, and his keys are gone from the dump of keys below.
"$python" manage.py erasures > "$BACKUP_DIR/ledger/$at.jsonl.part"
mv "$BACKUP_DIR/ledger/$at.jsonl.part" "$BACKUP_DIR/ledger/$at.jsonl"

# The address goes by the environment: arguments can be read by everybody on the machine.
dump() { # FILE OPTION...
    file=$1
    shift
    PGDATABASE=$(cat "$DATABASE_BACKUP_URL_FILE") "$python" -c '
import os, sys
from psycopg.conninfo import conninfo_to_dict
names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
         "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}
given = conninfo_to_dict(os.environ["PGDATABASE"])
os.environ.update({names[name]: str(value) for name, value in given.items() if name in names})
os.execvp(sys.argv[1], sys.argv[1:])
' pg_dump -Fc --no-password "$@" -f "$file.part"
    mv "$file.part" "$file"
}
# Rows first: who began meanwhile has a key too many, and no row without one. Not while `rotate_keys --data` goes on, which
# takes old keys away.
dump "$BACKUP_DIR/rows/$at.dump" --exclude-table-data=memory_data_keys --exclude-table-data=memory_search_keys
dump "$BACKUP_DIR/keys/$at.dump" --data-only --table=memory_data_keys --table=memory_search_keys

# One day less than promised: the dump that is just being made counts too.
find "$BACKUP_DIR/keys" -name '*.dump*' -mmin "+$(( (MEMORY_KEY_BACKUP_RETENTION_DAYS - 1) * 1440 ))" -delete
find "$BACKUP_DIR/rows" -name '*.dump*' -mtime "+${ROWS_BACKUP_DAYS:-90}" -delete
echo "backup $at written to $BACKUP_DIR" >&2

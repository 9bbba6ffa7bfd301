#!/bin/sh
# Makes every secret that compose.yml names in deploy/docker/secrets, once, as root: each file is readable by the one user
# who needs it, the service (10001) or PostgreSQL (999). What is there stays as it is: a new key of these opens no old row.
# Copy the folder to where no backup of the database is kept.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets

keep() { # NAME OWNER: standard input into a new file
    if [ -e "$1" ]; then
        cat > /dev/null
        return
    fi
    cat > "$1.new"
    chmod 0400 "$1.new"
    chown "$2" "$1.new"
    mv "$1.new" "$1"
    echo "made $1"
}

for name in MEMORY_ENCRYPTION_KEY MEMORY_TENANT_HMAC_KEY MEMORY_RECEIPT_KEY; do
    openssl rand -base64 32 | tr -d '\n' | keep "$name" 10001
done
for name in DJANGO_SECRET_KEY MEMORY_JWT_SECRET MEMORY_METRICS_TOKEN; do
    openssl rand -hex 32 | tr -d '\n' | keep "$name" 10001
done
for role in app owner maint; do
    [ -e "r1_${role}_password" ] || openssl rand -hex 24 | tr -d '\n' | keep "r1_${role}_password" 999
    name=DATABASE_URL
    [ "$role" = app ] || name=DATABASE_$(echo "$role" | tr '[:lower:]' '[:upper:]')_URL
    printf 'postgresql://r1_%s:%s@postgres:5432/r1' "$role" "$(cat "r1_${role}_password")" | keep "$name" 10001
done
openssl rand -hex 24 | tr -d '\n' | keep postgres_password 999
# Prometheus reads it as nobody (65534), Grafana as its own user (472).
keep prometheus_metrics_token 65534 < MEMORY_METRICS_TOKEN
openssl rand -hex 24 | tr -d '\n' | keep grafana_password 472

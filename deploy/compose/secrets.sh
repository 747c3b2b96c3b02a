#!/bin/sh
# As root: makes the secrets of compose.yaml that are missing. The files can be read by every user,
# as those of several containers do; their directory keeps all others out.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -p secrets etc/certs
chmod 700 secrets
for name in database redis grafana; do
    [ -s "secrets/$name" ] || openssl rand -hex 24 >"secrets/$name"
done
# For a first try: phones need one that they trust.
[ -s secrets/certificate.pem ] || openssl req -x509 -newkey rsa:2048 -nodes -days 90 \
    -subj /CN=push.example.com -keyout - >secrets/certificate.pem 2>/dev/null
# Accounts of apps and users of the console; docs/install.md fills them. They and credentials in
# etc/certs are the daemons' alone, whose user is 10001.
touch etc/accounts etc/console
chmod 600 etc/accounts etc/console
chown -R 10001:10001 etc/accounts etc/console etc/certs

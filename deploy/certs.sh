#!/bin/sh
# Makes a certificate authority of the farm's own, and the broker's certificate.
#
#   deploy/certs.sh FOLDER HOST…      HOST: each name and address by which clients and workers reach the broker
#
# FOLDER/ca.key      keep it off the network; it makes the next certificate (run this again: the authority is kept)
# FOLDER/ca.crt      LTX_BROKER_CA on every client and worker
# FOLDER/broker.key, broker.crt     for redis.conf; readable by the broker's user alone
set -eu

[ $# -ge 2 ] || { echo "usage: $0 FOLDER HOST…" >&2; exit 2; }
folder=$1
shift
mkdir -p "$folder" # which the broker's user may enter: what is secret has a mode of its own
umask 077

names=
for host; do
  case $host in
    *:* | *[!0-9.]*) case $host in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
    *) kind=IP ;;
  esac
  names=$names${names:+,}$kind:$host
done

if [ -e "$folder/ca.crt" ] && [ ! -e "$folder/ca.key" ]; then
  echo "$0: $folder/ca.key is not here; put it back, or remove ca.crt to begin with a new authority" >&2
  exit 2
fi
if [ ! -e "$folder/ca.key" ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out "$folder/ca.key"
  openssl req -x509 -new -key "$folder/ca.key" -sha256 -days 3650 -subj "/CN=ltx-farm authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$folder/ca.crt"
fi

openssl ecparam -name prime256v1 -genkey -noout -out "$folder/broker.key"
openssl req -new -key "$folder/broker.key" -subj "/CN=$1" -out "$folder/broker.csr"
printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" "extendedKeyUsage=serverAuth" \
  "subjectAltName=$names" "authorityKeyIdentifier=keyid" "subjectKeyIdentifier=hash" >"$folder/broker.ext"
openssl x509 -req -in "$folder/broker.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -sha256 \
  -days 825 -extfile "$folder/broker.ext" -out "$folder/broker.crt" 2>/dev/null
rm "$folder/broker.csr" "$folder/broker.ext"
chmod 644 "$folder/ca.crt" "$folder/broker.crt"
echo "made $folder/broker.crt for $names, valid until $(openssl x509 -in "$folder/broker.crt" -noout -enddate | cut -d= -f2)"

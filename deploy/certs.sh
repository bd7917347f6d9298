#!/bin/sh
# Make the farm's own certificate authority, and the broker's certificate.
#
#   deploy/certs.sh FOLDER HOST…      HOST: each name and address by which clients and workers connect to the broker
#
# FOLDER/ca.key      keep it off the network; it makes the next certificate (run this again: the authority is kept)
# FOLDER/ca.crt      LTX_BROKER_CA on every client and worker
# FOLDER/broker.key, broker.crt     for redis.conf; only the owner can read the key, and must be the broker's user
#
# A file that is replaced keeps its owner. If something fails, nothing is changed.
set -eu
. "$(dirname "$0")/broker-owner.sh"

usage() { echo "usage: $0 FOLDER HOST…" >&2; exit 2; }
case ${1-} in '' | -*) usage ;; esac
[ $# -ge 2 ] || usage
folder=$1
shift
names=
for host; do
  case $host in
    *[!0-9A-Fa-f:.]*:* | *:*[!0-9A-Fa-f:.]* | *[!A-Za-z0-9:._*-]* | [-.]* | '')
      echo "$0: the host \"$host\" is invalid; use a name or an address, without a port" >&2
      exit 2
      ;;
    *:*) kind=IP ;;
    *[!0-9.]*) kind=DNS ;;
    *) kind=IP ;;
  esac
  names=$names${names:+,}$kind:$host
done
make_folder

if [ -e "$folder/ca.crt" ] && [ ! -e "$folder/ca.key" ]; then
  echo "$0: $folder/ca.key is missing; put it back, or remove ca.crt to make a new authority" >&2
  exit 2
fi
find_owner "$folder/broker.key" "$folder/users.acl"

new=$(mktemp -d "$folder/.new.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$folder/ca.key" ] && [ -e "$folder/ca.crt" ]; then
  cp "$folder/ca.key" "$folder/ca.crt" "$new"
else
  openssl ecparam -name prime256v1 -genkey -noout -out "$new/ca.key"
  openssl req -x509 -new -key "$new/ca.key" -sha256 -days 3650 -subj "/CN=ltx-farm authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$new/ca.crt"
fi

openssl ecparam -name prime256v1 -genkey -noout -out "$new/broker.key"
openssl req -new -key "$new/broker.key" -subj "/CN=ltx-farm broker" -out "$new/broker.csr"
printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" "extendedKeyUsage=serverAuth" \
  "subjectAltName=$names" "authorityKeyIdentifier=keyid" "subjectKeyIdentifier=hash" >"$new/broker.ext"
if ! openssl x509 -req -in "$new/broker.csr" -CA "$new/ca.crt" -CAkey "$new/ca.key" -sha256 -days 825 \
  -set_serial "0x$(openssl rand -hex 16)" -extfile "$new/broker.ext" -out "$new/broker.crt" 2>"$new/said"; then
  cat "$new/said" >&2
  echo "$0: the authority in $folder could not make a certificate for $names; nothing was changed" >&2
  exit 1
fi

was=$(openssl x509 -in "$folder/broker.crt" -noout -ext subjectAltName 2>/dev/null | tail -n 1)
was=$(printf '%s' "$was" | sed -e 's/IP Address:/IP:/g' -e 's/[[:space:]]//g')
give "$new/broker.key"
chmod 644 "$new/ca.crt" "$new/broker.crt"
[ -e "$folder/ca.crt" ] || mv "$new/ca.key" "$new/ca.crt" "$folder"
mv -f "$new/broker.key" "$new/broker.crt" "$folder"
for name in $(printf '%s' "$was" | tr , ' '); do # who renews it two years later may not know all names
  case ,$names, in *",$name,"*) ;; *) echo "$0: unlike the certificate before, it is not for $name" >&2 ;; esac
done
echo "made $folder/broker.crt for $names, valid until $(openssl x509 -in "$folder/broker.crt" -noout -enddate | cut -d= -f2)"

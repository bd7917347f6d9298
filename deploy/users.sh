#!/bin/sh
# Draws the passwords of the farm's three users and writes the file that tells Redis what each may do.
#
#   deploy/users.sh FOLDER [NAMESPACE]      NAMESPACE: LTX_NAMESPACE, "ltx:" by default
#
# FOLDER/users.acl                        for redis.conf; holds the passwords' hashes only
# FOLDER/client.password, worker.password, admin.password      each for its own machines, mode 0600
#
# A password that is there is kept; to change one, remove its file, run this again, and then
# `redis-cli … ACL LOAD` as admin. What a user may do stands in users.acl.in, beside this script.
set -eu
umask 077

[ $# -ge 1 ] || { echo "usage: $0 FOLDER [NAMESPACE]" >&2; exit 2; }
folder=$1
namespace=${2:-ltx:}
case $namespace in *[!A-Za-z0-9:_-]* | '') echo "$0: a namespace is letters, digits, and : _ -" >&2; exit 2 ;; esac
mkdir -p "$folder"

# One line a user, as Redis wants it: comments go, and what is indented joins the line above.
acl=$(sed -e 's/[[:space:]]*#.*//' "$(dirname "$0")/users.acl.in" | awk '
  NF == 0 { next }
  /^user / { if (line != "") print line; line = $0; next }
  { $1 = $1; line = line " " $0 }
  END { print line }' | sed -e "s/~ltx:/~$namespace/g" -e "s/&ltx:/\&$namespace/g")

for user in client worker admin; do
  [ -s "$folder/$user.password" ] || openssl rand -hex 24 >"$folder/$user.password"
  hash=$(tr -d '\n' <"$folder/$user.password" | openssl dgst -sha256 -r | cut -d' ' -f1)
  acl=$(printf '%s\n' "$acl" | sed "s/^user $user /user $user #$hash /")
done
printf '%s\n' "$acl" >"$folder/users.acl.new"
mv "$folder/users.acl.new" "$folder/users.acl"
echo "made $folder/users.acl"

#!/bin/sh
# Draws the passwords of the farm's three users and writes the file that tells Redis what each may do.
#
#   deploy/users.sh FOLDER [NAMESPACE…]      NAMESPACE: LTX_NAMESPACE of each farm on this broker, "ltx:" by default
#
# FOLDER/users.acl                        for redis.conf; holds the passwords' hashes only
# FOLDER/client.password, worker.password, admin.password      each for its own machines, mode 0600
# FOLDER/namespaces                       what was named so far: it need not be named again
#
# The first namespace's users are called so; those of a further one, such as studio:, are studio-client and so on.
# A password that is there is kept; to change one, remove its file, run this again, and then
# `redis-cli … ACL LOAD` as admin. What a user may do stands in users.acl.in, beside this script.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 FOLDER [NAMESPACE…]" >&2; exit 2; }
folder=$1
shift
for namespace; do
  case $namespace in *[!A-Za-z0-9:_-]* | '') echo "$0: a namespace is letters, digits, and : _ -" >&2; exit 2 ;; esac
done
(umask 022 && mkdir -p "$folder") # which the broker's user may enter: what is secret has a mode of its own
case $(id -u),$(ls -ld "$folder") in
  0,d????????-*) echo "$0: only some users can enter $folder; chmod 755 it, if the broker's user is to" >&2 ;;
esac
umask 077

owner= # of the broker's files: who reads them now, and is to read what replaces them
for file in "$folder/users.acl" "$folder/broker.key"; do
  [ -z "$owner" ] && [ -e "$file" ] || continue
  owner=$(ls -n "$file" | awk '{ print $3 ":" $4 }')
  if [ ! -O "$file" ] && [ "$(id -u)" != 0 ]; then
    echo "$0: $file is another user's; run this as root, who can give that user the new one" >&2
    exit 2
  fi
done

known=$folder/namespaces
if [ -e "$known" ]; then
  cat "$known"
else # a file of users that was made before there was this list has one namespace
  sed -n 's/^user client .* %R~\([^ ]*\)job:\*.*/\1/p' "$folder/users.acl" 2>/dev/null || true
fi >"$known.new"
[ $# -gt 0 ] || [ -s "$known.new" ] || set -- ltx:
for namespace; do
  grep -qxF -e "$namespace" "$known.new" || printf '%s\n' "$namespace" >>"$known.new"
done

# One line a user, as Redis wants it: comments go, and what is indented joins the line above.
rules=$(sed -e 's/[[:space:]]*#.*//' "$(dirname "$0")/users.acl.in" | awk '
  NF == 0 { next }
  /^user / { if (line != "") print line; line = $0; next }
  { $1 = $1; line = line " " $0 }
  END { print line }')

new=$folder/users.acl.new
printf '%s\n' "$rules" | grep '^user default ' >"$new"
first=$(head -n 1 "$known.new")
while read -r namespace; do
  prefix=
  [ "$namespace" = "$first" ] || prefix=$(printf '%s' "$namespace" | tr ':_' '--' | sed 's/-*$/-/')
  if grep -q "^user ${prefix}client " "$new"; then
    rm "$new" "$known.new"
    echo "$0: the users of $namespace would be called as another namespace's" >&2
    exit 2
  fi
  for user in client worker admin; do
    secret=$folder/$prefix$user.password
    [ -s "$secret" ] || openssl rand -hex 24 >"$secret"
    hash=$(tr -d '\n' <"$secret" | openssl dgst -sha256 -r | cut -d' ' -f1)
    printf '%s\n' "$rules" | sed -n -e "s/~ltx:/~$namespace/g" -e "s/&ltx:/\&$namespace/g" \
      -e "s/^user $user /user $prefix$user #$hash /p" >>"$new"
  done
done <"$known.new"

if [ -n "$owner" ] && [ "$(id -u)" = 0 ]; then chown "$owner" "$new"; fi
mv -f "$new" "$folder/users.acl"
mv "$known.new" "$known"
echo "made $folder/users.acl; a broker that runs takes it by ACL LOAD, as admin"

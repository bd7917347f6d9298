#!/bin/sh
# Draw the passwords of the farm's three users, and write the file with their rights for Redis.
#
#   deploy/users.sh FOLDER [NAMESPACE…]      NAMESPACE: LTX_NAMESPACE of each farm on this broker, "ltx:" by default
#
# FOLDER/users.acl                        for redis.conf; contains only the passwords' hashes
# FOLDER/client.password, worker.password, admin.password      each for its own machines, mode 0600
# FOLDER/namespaces                       all namespaces so far: they need not be named again
#
# The users of the first namespace have these names; those of a further one, such as studio:, are studio-client and so
# on. An existing password is kept; to change it, remove its file, run this again, and then `redis-cli … ACL LOAD` as
# admin. The rights are those of users.acl.in, in the folder of this script.
set -eu
. "$(dirname "$0")/broker-owner.sh"

case ${1-} in '' | -*) echo "usage: $0 FOLDER [NAMESPACE…]" >&2; exit 2 ;; esac
folder=$1
shift
for namespace; do
  case $namespace in *[!A-Za-z0-9:_-]* | '') echo "$0: the namespace \"$namespace\" is invalid; use letters, digits, and : _ -" >&2; exit 2 ;; esac
done
if [ -d "$folder/users.acl" ]; then echo "$0: $folder/users.acl is a folder; remove it" >&2; exit 2; fi
make_folder

find_owner "$folder/users.acl" "$folder/broker.key"

known=$folder/namespaces new=$folder/users.acl.new
trap 'rm -f "$new" "$known.new"' EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$known" ]; then
  awk '{ sub(/\r/, "") } NF && !seen[$1]++ { print $1 }' <"$known" # somebody may have edited it
else # users.acl was made by a version without this list, or the list is lost
  sed -n 's/^user [^ ]*client .* %R~\([^ ]*\)job:\*.*/\1/p' "$folder/users.acl" 2>/dev/null || true
fi >"$known.new"
[ $# -gt 0 ] || [ -s "$known.new" ] || set -- ltx:
for namespace; do
  grep -qxF -e "$namespace" "$known.new" || printf '%s\n' "$namespace" >>"$known.new"
done
if grep -q '[^A-Za-z0-9:_-]' "$known.new"; then echo "$0: $known has an invalid namespace; use letters, digits, and : _ -" >&2; exit 2; fi
first=$(head -n 1 "$known.new")

prefix_of() { [ "$1" = "$first" ] || printf '%s' "$1" | tr ':_' '--' | sed 's/-*$/-/'; }

# Print the first line, as the programs that connect by this file read it.
password_in() { head -n 1 "$1" 2>/dev/null | tr -d '\r' | sed -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//'; }

taken='|' # every refusal comes before a password is drawn
while read -r namespace; do
  prefix=$(prefix_of "$namespace")
  case $taken in *"|$prefix|"*)
    echo "$0: the namespace $namespace is invalid: its users would have another one's names; $known lists all" >&2
    exit 2
    ;;
  esac
  taken=$taken$prefix'|'
  for user in client worker admin; do
    secret=$folder/$prefix$user.password
    if [ -s "$secret" ] && [ -z "$(password_in "$secret")" ]; then # its hash would be that of an empty password
      echo "$0: $secret is invalid: its first line is empty; remove the file, and another password is drawn" >&2
      exit 2
    fi
  done
done <"$known.new"

# The pattern of a farm's queues matches any name: it would match those of a namespace that begins with its own.
for namespace; do
  if grep -qxF -e "$namespace" "$known" 2>/dev/null; then continue; fi # it exists already, and so do its jobs
  while read -r other; do
    case $other in "$namespace") continue ;; esac
    case $namespace in "$other"*) ;; *) case $other in "$namespace"*) ;; *) continue ;; esac ;; esac
    echo "$0: the namespace $namespace is invalid: it and $other begin alike; use another name" >&2
    exit 2
  done <"$known.new"
done

# Make one line a user, as Redis needs it: remove comments, and join indented lines to the line above.
rules=$(sed -e 's/[[:space:]]*#.*//' "$(dirname "$0")/users.acl.in" | awk '
  NF == 0 { next }
  /^user / { if (line != "") print line; line = $0; next }
  { $1 = $1; line = line " " $0 }
  END { print line }')

printf '%s\n' "$rules" | grep '^user default ' >"$new"
while read -r namespace; do
  prefix=$(prefix_of "$namespace")
  for user in client worker admin; do
    secret=$folder/$prefix$user.password
    [ -s "$secret" ] || openssl rand -hex 24 >"$secret"
    hash=$(printf '%s' "$(password_in "$secret")" | openssl dgst -sha256 -r | cut -d' ' -f1)
    printf '%s\n' "$rules" | sed -n -e "s/~ltx:/~$namespace/g" -e "s/&ltx:/\&$namespace/g" \
      -e "s/^user $user /user $prefix$user #$hash /p" >>"$new"
  done
done <"$known.new"

give "$new"
mv -f "$known.new" "$known" # first: the next run adds a namespace that only this file has
mv -f "$new" "$folder/users.acl"
echo "made $folder/users.acl; a running broker reads it by ACL LOAD, as admin"

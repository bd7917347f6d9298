#!/bin/sh
# Copy the log of a running broker, after the broker has rewritten it.
#
#   deploy/backup.sh DATA COPY [OPTION…]     DATA: the broker's folder.  COPY: a new folder.
#                                            OPTION: of redis-cli, to connect to the broker as admin
#
# REDISCLI_AUTH has the admin's password, which must not be on a command line. To restore: stop the broker, replace
# DATA/appendonlydir by COPY, give it to the broker's user, and start the broker.
set -eu

case ${1-},${2-} in -* | *,-* | *,)
  echo "usage: REDISCLI_AUTH=PASSWORD $0 DATA COPY [OPTION…]" >&2
  exit 2
  ;;
esac
log=$1/appendonlydir copy=${2%/}
shift 2
[ -d "$log" ] || { echo "$0: the folder $log is missing; DATA must be the broker's folder" >&2; exit 2; }
[ ! -e "$copy" ] || { echo "$0: $copy exists already; use a new folder" >&2; exit 2; }
umask 077

persistence() { redis-cli --no-auth-warning "$@" INFO persistence | tr -d '\r'; }

manifest() { cat "$log"/appendonly.aof.manifest; }

was=$(manifest)
answer=$(redis-cli --no-auth-warning "$@" BGREWRITEAOF)
case $answer in *started* | *scheduled* | *'already in progress'*) ;; *) echo "$0: $answer" >&2; exit 1 ;; esac
while found=$(persistence "$@") && printf '%s\n' "$found" | grep -qE '^aof_rewrite_(in_progress|scheduled):1$'; do sleep 0.2; done
if ! printf '%s\n' "$found" | grep -qx 'aof_last_bgrewrite_status:ok'; then
  echo "$0: the broker could not rewrite its log; its own messages say why" >&2
  exit 1
fi

if [ "$was" = "$(manifest)" ]; then # it names other files after each rewrite
  echo "$0: the broker has rewritten its log, but not in $log; DATA must be the broker's own folder" >&2
  exit 1
fi

trap 'rm -rf "$copy.new"' EXIT
trap 'exit 1' HUP INT TERM
failures=0
while :; do # again, if the broker has begun to rewrite its log meanwhile
  rm -rf "$copy.new"
  before=$(manifest)
  if cp -R "$log" "$copy.new"; then
    if [ "$before" = "$(manifest)" ]; then break; fi
  else # the broker may have removed a file since; a fault of the copy's folder remains
    failures=$((failures + 1))
    [ $failures -lt 3 ] || { echo "$0: could not make $copy" >&2; exit 1; }
  fi
  sleep 1
done
mv "$copy.new" "$copy"
echo "made $copy"

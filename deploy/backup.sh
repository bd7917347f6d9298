#!/bin/sh
# Copies what the broker has logged, once it has written its log anew and while it runs.
#
#   deploy/backup.sh DATA COPY [OPTION…]     DATA: the broker's folder.  COPY: a folder that is not there yet.
#                                            OPTION: of redis-cli, to reach the broker as admin
#
# REDISCLI_AUTH has the admin's password, which is not to stand on a command line. To restore: stop the broker, put COPY
# in the place of DATA/appendonlydir, give it to the broker's user, and start the broker.
set -eu

case ${1-},${2-} in -* | *,-* | *,)
  echo "usage: REDISCLI_AUTH=PASSWORD $0 DATA COPY [OPTION…]" >&2
  exit 2
  ;;
esac
log=$1/appendonlydir copy=${2%/}
shift 2
[ -d "$log" ] || { echo "$0: there is no folder $log" >&2; exit 2; }
[ ! -e "$copy" ] || { echo "$0: $copy is there already" >&2; exit 2; }
umask 077

persistence() { redis-cli --no-auth-warning "$@" INFO persistence | tr -d '\r'; }

manifest() { cat "$log"/appendonly.aof.manifest; }

was=$(manifest)
answer=$(redis-cli --no-auth-warning "$@" BGREWRITEAOF)
case $answer in *started* | *scheduled* | *'already in progress'*) ;; *) echo "$0: $answer" >&2; exit 1 ;; esac
while found=$(persistence "$@") && printf '%s\n' "$found" | grep -qE '^aof_rewrite_(in_progress|scheduled):1$'; do sleep 0.2; done
if ! printf '%s\n' "$found" | grep -qx 'aof_last_bgrewrite_status:ok'; then
  echo "$0: the broker could not write its log anew; its own log says why" >&2
  exit 1
fi

if [ "$was" = "$(manifest)" ]; then # which names other files after each time
  echo "$0: the broker has written its log anew, and not in $log; DATA is to be its own folder" >&2
  exit 1
fi

trap 'rm -rf "$copy.new"' EXIT
trap 'exit 1' HUP INT TERM
failures=0
while :; do # again, if the broker has begun to write its log anew meanwhile
  rm -rf "$copy.new"
  before=$(manifest)
  if cp -R "$log" "$copy.new"; then
    if [ "$before" = "$(manifest)" ]; then break; fi
  else # as where a file has been taken away since; what is wrong with the place of the copy stays so
    failures=$((failures + 1))
    [ $failures -lt 3 ] || { echo "$0: $copy could not be made" >&2; exit 1; }
  fi
  sleep 1
done
mv "$copy.new" "$copy"
echo "made $copy"

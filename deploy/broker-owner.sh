# Functions of certs.sh and users.sh: the folder of the broker's secrets, $folder, and the secrets' owner.

# Make the folder, if it is missing, and make new files readable by nobody else.
make_folder() {
  (umask 022 && mkdir -p "$folder") # the broker's user may enter it: secret files have a mode of their own
  case $(id -u),$(ls -ld "$folder") in
    0,d????????-*) echo "$0: only some users can enter $folder; use chmod 755 if the broker's user cannot" >&2 ;;
  esac
  umask 077
}

# Set $owner to the owner of the first of these files that exists, who must also read the new ones.
find_owner() {
  owner=
  for file; do
    [ -z "$owner" ] && [ -e "$file" ] || continue
    owner=$(ls -n "$file" | awk '{ print $3 ":" $4 }')
    if [ ! -O "$file" ] && [ "$(id -u)" != 0 ]; then
      echo "$0: $file belongs to another user; run this as root, who can give that user the new one" >&2
      exit 2
    fi
  done
}

# Give a new file to the owner that was found.
give() {
  if [ -n "$owner" ] && [ "$(id -u)" = 0 ]; then chown "$owner" "$1"; fi
}

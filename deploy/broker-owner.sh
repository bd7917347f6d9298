# For certs.sh and users.sh, which read this: the folder of the broker's secrets, and whose they are. $folder is the folder.

# Makes the folder, where there is none, and what follows readable by nobody else.
make_folder() {
  (umask 022 && mkdir -p "$folder") # which the broker's user may enter: what is secret has a mode of its own
  case $(id -u),$(ls -ld "$folder") in
    0,d????????-*) echo "$0: only some users can enter $folder; chmod 755 it, if the broker's user is to" >&2 ;;
  esac
  umask 077
}

# Sets $owner to whose the first of these files is that is there: who reads them now, and is to read what replaces them.
find_owner() {
  owner=
  for file; do
    [ -z "$owner" ] && [ -e "$file" ] || continue
    owner=$(ls -n "$file" | awk '{ print $3 ":" $4 }')
    if [ ! -O "$file" ] && [ "$(id -u)" != 0 ]; then
      echo "$0: $file is another user's; run this as root, who can give that user the new one" >&2
      exit 2
    fi
  done
}

# Gives the owner that was found a new file.
give() {
  if [ -n "$owner" ] && [ "$(id -u)" = 0 ]; then chown "$owner" "$1"; fi
}

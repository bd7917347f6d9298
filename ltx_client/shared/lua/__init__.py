"""Load and call Lua scripts from files, including those that scripts of client and worker share."""

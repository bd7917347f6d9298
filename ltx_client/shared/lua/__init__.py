"""Lua scripts as files: how they are loaded and called, and what the scripts of client and worker share."""

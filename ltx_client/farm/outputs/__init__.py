"""Decide where videos are written: names, templates, folders, standard output."""

"""Where videos are written: names, templates, folders, standard output."""

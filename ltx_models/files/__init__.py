"""Files: of models, on this machine and on the hub; how they are locked, named and written; and what a file is."""

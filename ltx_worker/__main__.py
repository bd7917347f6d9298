"""`python -m ltx_worker`: the `ltx-worker` command, where it is not on the PATH."""

from ltx_worker.cli import main

if __name__ == "__main__":
    main()

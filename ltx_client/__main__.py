"""`python -m ltx_client`: the `ltx` command, where it is not on the PATH."""

from ltx_client.cli import main

if __name__ == "__main__":
    main()

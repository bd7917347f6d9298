"""Run the `ltx` command, also as `python -m ltx_client` if it is not on the PATH."""

from ltx_client.shared.console.entry_point import run


def main() -> None:
    """Run the command and exit."""
    run("ltx_client.cli")


if __name__ == "__main__":
    main()

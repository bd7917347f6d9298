"""The engine process: `python -m ltx_worker.engine VARIANT COMMAND_FD MESSAGE_FD`."""

from ltx_worker.engine.host import main

if __name__ == "__main__":
    main()

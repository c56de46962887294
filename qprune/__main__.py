"""The command, as `qprune` or `python -m qprune`: told to stop, it ends without a traceback, from its first import on."""

import sys

from qprune import stopping


def main() -> None:
    """Entry point. Exit codes: those of the commands; 130 after Ctrl-C, 143 after SIGTERM."""
    stopping.heed("stopped")
    try:
        from qprune.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(stopping.exit_code())
    except SystemExit:
        if stopping.came:
            sys.exit(stopping.exit_code())
        raise
    finally:
        stopping.ignore()


if __name__ == "__main__":
    main()

"""``esscher`` and ``python -m esscher``: the command line, or what to install for it."""

import os
import sys

from esscher.waiting import let_waiting_threads_sleep


def main() -> None:
    """Run the command line."""
    # Before anything imports torch.
    let_waiting_threads_sleep(os.environ)
    try:
        from esscher.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "pyarrow", "altair", "jinja2"):
            raise
        print(
            f"error: the command line needs {error.name}, which is not installed: pip install 'esscher[report]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

"""``python -m underhood``: the command, where its folder is not on the path."""

import sys

from underhood.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

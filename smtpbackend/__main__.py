"""``python -m smtpbackend``: see ``command_line/``."""

import sys

from smtpbackend.command_line import main

if __name__ == "__main__":
    sys.exit(main())

"""What ``python -m setok`` says: a library has no command of its own."""

import sys

COMMANDS = "setok is the library. Its commands: python -m ray_jobs lists them all.\n"

if __name__ == "__main__":
    sys.stdout.write(COMMANDS)

"""Where the command `hiddenstate` begins. Beside the package, not in it: importing the package takes a tenth of a
second, and who presses Ctrl-C in that time is to see no traceback.
"""

import os
import signal


def main() -> None:
    """Loads the command and runs it."""
    # Below errors gRPC writes lines of its own to standard error, such as one for each handshake that failed.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell lets commands in the background ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hiddenstate.cli import main as command

    signal.signal(signal.SIGINT, before)
    command()

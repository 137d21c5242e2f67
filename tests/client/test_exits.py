"""Clients that are left open when the program ends."""

import gc
import subprocess
import sys
import weakref

from hiddenstate import Client

LEFT_OPEN = """
from hiddenstate import Client

class Told(Client):
    def close(self):
        print("closed", self.name)
        super().close()

def begin(name):
    client = Told("127.0.0.1:1")
    client.name = name
    return client

first, second = begin("first"), begin("second")
with begin("third"):
    pass
"""


def test_clients_that_nobody_closed_are_closed_before_the_program_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=True)
    lines = ended.stdout.splitlines()
    assert lines[0] == "closed third"
    assert {"closed first", "closed second"} <= set(lines)
    assert ended.stderr == ""


def test_a_client_that_was_let_go_is_not_kept_for_that() -> None:
    client = Client("127.0.0.1:1")
    kept = weakref.ref(client)
    del client
    gc.collect()
    assert kept() is None

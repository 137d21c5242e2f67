"""The models that a server has, and how they come and go while it serves."""

from hiddenstate_server.repository.index import IndexEntry, State
from hiddenstate_server.repository.loader import Served
from hiddenstate_server.repository.repository import Repository

__all__ = ["IndexEntry", "Repository", "Served", "State"]

"""The models that a server has, and how they come and go while it serves."""

from hiddenstate_server.repository.loader import Served
from hiddenstate_server.repository.repository import IndexEntry, Repository, State

__all__ = ["IndexEntry", "Repository", "Served", "State"]

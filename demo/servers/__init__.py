"""The demo's servers, one class each; the tests use them too."""

from demo.servers.dagster import CodeServer, Daemon, DagsterServer, Webserver
from demo.servers.object_store import ObjectStore
from demo.servers.postgres import LEGACY_OPTIONS, PostgresServer
from demo.servers.search import SearchServer
from demo.servers.server import Server

__all__ = [
    "LEGACY_OPTIONS",
    "CodeServer",
    "Daemon",
    "DagsterServer",
    "ObjectStore",
    "PostgresServer",
    "SearchServer",
    "Server",
    "Webserver",
]

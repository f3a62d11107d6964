"""`sync-pipeline docs`: Data Docs over HTTP, for links that open from anywhere. Nothing is listed or written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import typer

from checks.data_docs import HOST, PORT, DataDocs
from checks.pages import SITE
from sync_pipeline.errors import SettingError

app = typer.Typer(no_args_is_help=True)


class _Pages(SimpleHTTPRequestHandler):
    def list_directory(self, path: object) -> None:
        """No page is there (yet)."""
        self.send_error(HTTPStatus.NOT_FOUND, "No such page. The job `expectations` publishes Data Docs.")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told."""


def server(docs: DataDocs, host: str = HOST, port: int = PORT) -> ThreadingHTTPServer:
    """A server over the site's folder, which may still be empty. Raises SettingError where there is none to serve."""
    if docs.bucket:
        raise SettingError(f"SYNC_DATA_DOCS is a bucket, which serves its pages itself: {docs.url}/index.html")
    folder = Path(docs.home).absolute() / SITE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return ThreadingHTTPServer((host, port), partial(_Pages, directory=str(folder)))
    except OSError as error:
        raise SettingError(f"{host}:{port} cannot be served: {error.strerror}; --port chooses another") from error


@contextmanager
def serving(docs: DataDocs, host: str = HOST, port: int = PORT) -> Iterator[str]:
    """Serve for as long as this lasts; gives the address. Raises SettingError where there is none to serve."""
    with server(docs, host, port) as pages:
        thread = threading.Thread(target=pages.serve_forever, name="data-docs", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{pages.server_port}"
        finally:
            pages.shutdown()
            thread.join()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(help="The port; links in checks lead to SYNC_DATA_DOCS_URL.")] = PORT,
) -> None:
    """Serve the folder of SYNC_DATA_DOCS until interrupted."""
    docs = DataDocs.from_env()
    with server(docs, host, port) as pages, suppress(KeyboardInterrupt):
        typer.echo(f"Data Docs of {docs.home} at http://{host}:{port} until Ctrl-C; links in checks lead to {docs.url}")
        pages.serve_forever()


@app.callback()
def docs() -> None:
    """Data Docs: what validations found, as pages."""

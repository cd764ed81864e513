"""A W&B server as far as `wandb sync` needs one: it keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server(ThreadingHTTPServer):
    """What came in: paths asked for, rows of runs, lines of streamed files, whole files by name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []
        self.asked: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.streamed: dict[str, list[dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            self.runs.append(given)
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": given["name"], "displayName": "d", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        self.asked.append(operation)
        given = given.get("input", given)
        if operation == "CreateArtifact":
            artifact = {"id": given["artifactCollectionName"], "state": "PENDING"}
            return {"createArtifact": {"artifact": {**artifact, "artifactSequence": {}}}}
        if operation == "CreateArtifactManifest":
            file = {**self._upload(f"manifest-{given['artifactID']}"), "id": "f", "name": "m"}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            nodes = [self._node(spec["name"]) for spec in given["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": given["artifactID"]}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, **self._upload(name)} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _upload(self, name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{self.url}/upload/{name}", "uploadHeaders": []}

    def _node(self, name: str) -> dict[str, Any]:
        more = {"id": name, "name": name, "displayName": name, "storagePath": None}
        return {**more, **self._upload(name), "uploadMultipartUrls": None, "artifact": {"id": "a"}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/upload/")] = self._body()
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            given = json.loads(body)
            answer = self.server.answer(given["operationName"], given.get("variables") or {})
            return self._send({"data": answer})
        if self.path.endswith("/file_stream"):
            for name, part in json.loads(body).get("files", {}).items():
                lines = [json.loads(line) for line in part["content"]]
                self.server.streamed.setdefault(name, []).extend(lines)
        return self._send({})

    def _body(self) -> bytes:
        self.server.paths.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

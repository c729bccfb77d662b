"""A small Hugging Face Hub on 127.0.0.1 that keeps repositories in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_of_the_tests"


class HubServer(ThreadingHTTPServer):
    """The server; `files` and `private` are by repository, `asked` are all requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = unquote(urlparse(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{method} {path}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if method in ("POST", "PUT") and not path.startswith("/objects/") and not known:
            return self._send({"error": "Unauthorized"}, 401)
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            if name in self.server.files:
                return self._send({"error": "exists", "url": f"{self.server.address}/{name}"}, 409)
            self.server.files[name], self.server.private[name] = {}, given.get("visibility") == "private"
            return self._send({"url": f"{self.server.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/objects/(\w+)", path):
            self.server.objects[found[1]] = body
            return self._send({})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            objects = [{**each, "actions": {"upload": {"href": f"{self.server.address}/objects/{each['oid']}"}}}
                       for each in json.loads(body)["objects"]]  # fmt: skip
            return self._send({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
            return self._repository(found[1], found[2] or "", body)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[\w.-]+/(.+)", path):
            return self._file(found[1], found[2], method)
        return self._send({"error": f"no {path}"}, 404)

    def _repository(self, name: str, rest: str, body: bytes) -> None:
        files = self.server.files.get(name)
        if files is None:
            return self._send({"error": "Repository Not Found"}, 404, {"X-Error-Code": "RepoNotFound"})
        version = re.match(r"/(?:revision|preupload|commit|tree)/([^/]+)", rest)
        if version and not re.fullmatch(r"main|[0-9a-f]{40}", version[1]):
            return self._send({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if rest.startswith("/preupload/"):
            modes = [{"path": each["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                     for each in json.loads(body)["files"]]  # fmt: skip
            return self._send({"files": modes})
        if rest.startswith("/commit/"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
            done = {"success": True, "commitOid": self.server.commit(name), "hookOutput": "",
                    "commitUrl": f"{self.server.address}/{name}/commit/{self.server.commit(name)}"}  # fmt: skip
            return self._send(done)
        if rest.startswith("/tree/"):
            listed = [{"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                      for path, content in files.items()]  # fmt: skip
            return self._send(listed)
        siblings = [{"rfilename": path} for path in files]
        return self._send({"id": name, "modelId": name, "sha": self.server.commit(name), "siblings": siblings,
                           "private": self.server.private[name], "tags": []})  # fmt: skip

    def _file(self, name: str, path: str, method: str) -> None:
        content = self.server.files.get(name, {}).get(path)
        if content is None:
            return self._send({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.server.commit(name),
                   "Content-Type": "application/octet-stream"}  # fmt: skip
        return self._send(content, 200, headers, method)

    def _send(self, content: Any, code: int = 200, headers: dict[str, str] | None = None, method: str = "") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

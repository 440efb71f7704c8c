"""As much of a hub's interface as an upload of small files needs, on this machine."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Serves while it is entered. made: the repository asked for; commits: files by name of each. refuses: a status.

    there: files of an earlier upload; deleted: those that a commit took away. private: what the repository is.
    """

    def __init__(self):
        self.made, self.commits, self.tokens, self.refuses = None, [], set(), None
        self.there, self.deleted, self.private = [], [], True

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"] or 0))
                hub.tokens.add(self.headers["Authorization"])
                told = {"error": "no"} if hub.refuses else hub.answer(self.path, content)
                body = json.dumps(told).encode()
                self.send_response(hub.refuses or 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path, content):
        """Give what the hub says to a request."""
        if path == "/api/repos/create":
            self.made = {
                key: value for key, value in json.loads(content).items() if value is not None and key != "type"
            }
            return {"url": f"{self.url}/org/tiny"}
        if path.startswith("/api/models/org/tiny/tree/main"):
            return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.there]
        if path.partition("?")[0] == "/api/models/org/tiny":
            names = [{"rfilename": name} for name in self.there]
            return {"id": "org/tiny", "private": self.private, "siblings": names, "sha": "0" * 40}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/models/org/tiny/preupload/main":
            asked = json.loads(content)["files"]
            return {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
        assert path == "/api/models/org/tiny/commit/main", path
        lines = [json.loads(line) for line in content.splitlines()]
        self.deleted += [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
        files = [line["value"] for line in lines if line["key"] == "file"]
        self.commits.append({file["path"]: base64.b64decode(file["content"]) for file in files})
        # The client reads an address of the hub's own out of this, whatever its endpoint.
        return {
            "commitUrl": f"https://huggingface.co/org/tiny/commit/{'0' * 40}",
            "commitOid": "0" * 40,
            "commitMessage": "",
        }

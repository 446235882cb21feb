"""A stand-in for llama-server: the same options and answers, the text from a file beside the model.

The file `<model>.fake.json` holds {"tokens", "mode"}; every start adds a line to `<model>.starts`.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def main() -> None:
    if "--version" in sys.argv:
        print("version: 7 (fake)\nsomething else\nbuilt with care")
        return
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    model = Path(options["--model"])
    facts = json.loads(model.with_suffix(".fake.json").read_text("utf-8"))
    with model.with_suffix(".starts").open("a", encoding="utf-8") as file:
        file.write(json.dumps(options) + "\n")
    if facts["mode"] == "broken":
        print("all is well\nerror: the model is sour\nbye")
        sys.exit(1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, {"status": "ok"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if facts["mode"] == "refuses":
                self.answer(400, {"error": "too sour"})
                return
            tokens = facts["tokens"][: body["n_predict"]]
            times = {"predicted_ms": 50.0, "predicted_n": len(tokens)}
            if options["--spec-type"] != "none":
                times |= {"draft_n": 9, "draft_n_accepted": 2}
            answer: dict[str, Any] = {"tokens": tokens, "prompt": body["prompt"]}
            self.answer(200, answer if facts["mode"] == "timeless" else answer | {"timings": times})

        def answer(self, status: int, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()


main()

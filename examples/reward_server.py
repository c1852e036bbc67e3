"""A reward of your own behind HTTP, in the plain protocol: `python examples/reward_server.py 8400`.

    idgrpo train-policy --base tiny-phantom --reward bright=http://127.0.0.1:8400

GET /health names the protocol and the version of the reward; POST /score takes clips as PNG files in base64.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def score(frames: list[np.ndarray], references: list[np.ndarray], prompt: str) -> float:
    return float(np.mean(frames)) / 255


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def result_of(clip: dict) -> dict:
    try:
        return {
            "score": score(
                [picture(f) for f in clip["frames"]], [picture(r) for r in clip["references"]], clip["prompt"]
            )
        }
    except (OSError, ValueError) as error:
        return {"failure": str(error)}  # a failure is never a number


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"protocol": "idgrpo-json-1", "model": "brightness 1"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"model": "brightness 1", "results": [result_of(clip) for clip in body["clips"]]})

    def answer(self, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

"""A server on this machine that answers as told."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror:
    """Serves what `url` was given and remembers in `asked` what it was asked for."""

    def __init__(self):
        self.asked, self.answers = [], {}
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                mirror.asked.append(name)
                content, promised, status, pause_s = mirror.answers.get(name, (b"", 0, 404, 0.0))
                time.sleep(pause_s)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(promised))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client had enough

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def url(self, name, content, promised=None, status=200, pause_s=0.0):
        """Return the address of a content; `promised` is the length that the answer claims to have."""
        self.answers[name] = content, len(content) if promised is None else promised, status, pause_s
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

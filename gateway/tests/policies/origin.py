"""A service whose manner is set while it runs: PUT /manner?status=503&delay=0.5&reset=1, GET /count.
With every=2 only every second request meets that status.

Answers every other request with its own name and the size of the body that came. Prints its port."""

import http.server
import socket
import struct
import sys
import threading
import time
import urllib.parse

name = sys.argv[1]
manner = {}
count = 0
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        global manner, count
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if url.path == "/manner":
            manner = dict(urllib.parse.parse_qsl(url.query))
            return self.answer(200, "")
        if url.path == "/count":
            return self.answer(200, str(count))
        if url.path != "/health":
            with lock:
                count += 1
        if manner.get("reset"):
            # A close with a linger of zero sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        time.sleep(float(manner.get("delay", 0)))
        if "pause" in manner:
            return self.events(float(manner["pause"]))
        status = int(manner.get("status", 200)) if count % int(manner.get("every", 1)) == 0 else 200
        self.answer(status, f"{name} {len(body)}")

    def events(self, pause):
        """Three server-sent events."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(3):
            event = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):
            pass

    do_GET = do_PUT = do_POST = serve


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()

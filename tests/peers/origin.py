"""A WSGI service for gunicorn: appends a line for each whole request to the file SEEN, then answers it."""

import json
import os


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    length = environ.get("CONTENT_LENGTH")
    target = environ["RAW_URI"]
    # A body that broke off is handed over as if it were whole.
    if not length or int(length) == len(body):
        seen = {
            "method": environ["REQUEST_METHOD"],
            "target": target,
            "host": environ.get("HTTP_HOST"),
            "body": body.hex(),
        }
        with open(os.environ["SEEN"], "a") as file:
            file.write(json.dumps(seen) + "\n")
    answer = target.encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]

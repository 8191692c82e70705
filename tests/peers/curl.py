"""curl's protocol options: what it says of an exchange with the gateway must be what was asked for."""

import json
import os
import subprocess
import tempfile

from case import case, check

CLEAR, TLS = "http://127.0.0.1:8020", "https://127.0.0.1:8443"
FAR = ["--insecure"]


def curl(*args, stdin=None):
    """What curl says of its last transfer, with its exit code and the body."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{json}", *args]
    done = subprocess.run(command, input=stdin, capture_output=True)
    body, _, report = done.stdout.rpartition(b"\n")
    said = json.loads(report)
    return {**said, "exit": done.returncode, "body": body, "error": done.stderr.decode()}


def answers(kind, name, args, expected, stdin=None):
    def run():
        said = curl(*args, stdin=stdin)
        found = {key: said[key] for key in expected}
        check(found == expected, f"{found}, not {expected}: {said['error']}")
    case(kind, name, run)


def ok(version, **further):
    return {"exit": 0, "response_code": 200, "http_version": version, **further}


def versions():
    answers("versions", "HTTP/1.0", ["--http1.0", f"{CLEAR}/a"], ok("1", body=b"/a"))
    answers("versions", "HTTP/1.1", ["--http1.1", f"{CLEAR}/a"], ok("1.1", body=b"/a"))
    answers("versions", "HTTP/2 by its preface", ["--http2-prior-knowledge", f"{CLEAR}/a"], ok("2", body=b"/a"))
    answers("versions", "an upgrade to h2c is not taken", ["--http2", f"{CLEAR}/a"], ok("1.1", body=b"/a"))
    answers("versions", "HTTP/2 by ALPN", [*FAR, "--http2", f"{TLS}/a"], ok("2", body=b"/a"))
    answers("versions", "HTTP/1.1 by ALPN", [*FAR, "--http1.1", f"{TLS}/a"], ok("1.1", body=b"/a"))
    answers("versions", "no ALPN", [*FAR, "--no-alpn", f"{TLS}/a"], ok("1.1", body=b"/a"))


def tls():
    answers("TLS", "1.2", [*FAR, "--tls-max", "1.2", f"{TLS}/a"], ok("2"))
    answers("TLS", "1.3", [*FAR, "--tlsv1.3", f"{TLS}/a"], ok("2"))
    answers("TLS", "1.1 is refused", [*FAR, "--tls-max", "1.1", "--tlsv1.0", f"{TLS}/a"], {"exit": 35})
    answers("TLS", "the certificate is checked", ["--cacert", "certificate.pem", "--connect-to", "a.example:8443:127.0.0.1:8443", "https://a.example:8443/a"], ok("2"))
    answers("TLS", "another name fails", ["--cacert", "certificate.pem", "--connect-to", "b.example:8443:127.0.0.1:8443", "https://b.example:8443/a"], {"exit": 60})
    answers("TLS", "clear text at a TLS listener", ["http://127.0.0.1:8443/a"], {"response_code": 0})


def methods():
    for flags, version in ((["--http1.1"], "1.1"), (["--http2-prior-knowledge"], "2")):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answers("methods", f"{method} over {version}", [*flags, "--request", method, f"{CLEAR}/a"], ok(version, body=b"/a"))
        answers("methods", f"HEAD over {version}", [*flags, "--head", f"{CLEAR}/a"], {"exit": 0, "response_code": 200})


def bodies():
    large = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile() as file:
        file.write(large)
        file.flush()
        for flags, version in ((["--http1.1"], "1.1"), (["--http2-prior-knowledge"], "2"), ([*FAR, "--http2"], "2")):
            url = f"{TLS if flags[0] == FAR[0] else CLEAR}/b"
            answers("bodies", f"1 MiB over {version} at {url}", [*flags, "--data-binary", f"@{file.name}", url], ok(version, size_upload=len(large)))
            answers("bodies", f"an upload over {version} at {url}", [*flags, "--upload-file", file.name, url], ok(version, size_upload=len(large)))
            answers("bodies", f"of unknown length over {version} at {url}", [*flags, "--upload-file", "-", url], ok(version), stdin=large)
        answers("bodies", "chunked", ["--http1.1", "--header", "Transfer-Encoding: chunked", "--data-binary", f"@{file.name}", f"{CLEAR}/b"], ok("1.1"))
        answers("bodies", "Expect: 100-continue", ["--http1.1", "--header", "Expect: 100-continue", "--data-binary", f"@{file.name}", f"{CLEAR}/b"], ok("1.1"))
        answers("bodies", "a form", ["--form", f"file=@{file.name}", f"{CLEAR}/b"], ok("1.1"))


def connections():
    answers("connections", "one for many requests", ["--http1.1"] + [f"{CLEAR}/a"] * 5, {"exit": 0, "num_connects": 0})
    answers("connections", "Connection: close", ["--http1.1", "--header", "Connection: close", f"{CLEAR}/a"], ok("1.1"))
    answers("connections", "a Unix socket", ["--unix-socket", "gateway.sock", "http://a.example/a"], ok("1.1"))
    answers("connections", "fifty streams at once", [*FAR, "--http2", "--parallel", "--parallel-max", "50"] + [f"{TLS}/a"] * 50, {"exit": 0})


def targets():
    answers("targets", "dot segments are refused", ["--path-as-is", f"{CLEAR}/a/../b"], {"exit": 0, "response_code": 400})
    answers("targets", "absolute form", ["--request-target", "http://127.0.0.1:8020/c", f"{CLEAR}/a"], ok("1.1", body=b"/c"))
    answers("targets", "a query", [f"{CLEAR}/a?b=c%20d"], ok("1.1", body=b"/a?b=c%20d"))
    answers("targets", "through a proxy's form", ["--proxy", CLEAR, "http://a.example/d"], ok("1.1", body=b"/d"))
    answers("targets", "CONNECT is refused", ["--proxytunnel", "--proxy", CLEAR, "http://a.example/d"], {"response_code": 0})
    answers("targets", "another Host", ["--header", "Host: b.example", f"{CLEAR}/a"], ok("1.1"))
    answers("targets", "no Host", ["--header", "Host:", f"{CLEAR}/a"], {"exit": 0, "response_code": 400})


for part in (versions, tls, methods, bodies, connections, targets):
    part()

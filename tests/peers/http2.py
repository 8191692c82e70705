"""HTTP/2 as nobody should speak it: frames, settings, windows and header blocks against RFC 9113, one connection each."""

import socket
import struct

import hpack
from hyperframe import frame

from case import case, check

GATEWAY = ("127.0.0.1", 8020)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PROTOCOL, INTERNAL, FLOW, STREAM_CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 1, 2, 3, 5, 6, 7, 8, 9, 11
# The gateway's library says PROTOCOL_ERROR of a frame's wrong size, and of a window beyond its bound in SETTINGS.
SIZES, WINDOWS = {SIZE, PROTOCOL}, {FLOW, PROTOCOL}
HEAD = [(":method", "GET"), (":scheme", "http"), (":path", "/h2"), (":authority", "a.example")]
POST = [(":method", "POST")] + HEAD[1:]


def raw(kind, flags, stream, payload=b"", length=None):
    """A frame, of a length that need not be its payload's."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Connection:
    """A connection after the preface; keeps what the gateway sends."""

    def __init__(self, settings=b"", preface=PREFACE, acknowledge=True, first=True):
        self.socket = socket.create_connection(GATEWAY, timeout=8)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.acknowledge = acknowledge
        self.rest = b""
        self.send(preface + (raw(4, 0, 0, settings) if first else b""))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # It has already closed, and what it said is read.

    def block(self, fields=HEAD):
        return self.encoder.encode(fields)

    def headers(self, stream, fields=HEAD, flags=5):
        self.send(raw(1, flags, stream, self.block(fields)))

    def frames(self):
        """Frames until the gateway closes; settings and pings are acknowledged."""
        while True:
            while len(self.rest) >= 9:
                head, length = frame.Frame.parse_frame_header(memoryview(self.rest[:9]))
                if len(self.rest) < 9 + length:
                    break
                head.parse_body(memoryview(self.rest[9 : 9 + length]))
                self.rest = self.rest[9 + length :]
                if isinstance(head, frame.SettingsFrame) and "ACK" not in head.flags and self.acknowledge:
                    self.send(raw(4, 1, 0))
                if isinstance(head, frame.HeadersFrame):
                    head.fields = self.decoder.decode(head.data)
                yield head
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            self.rest += more

    def until(self, wanted):
        for found in self.frames():
            if wanted(found):
                return found
        return None

    def status(self, stream):
        """The status of a stream's answer; nothing if it was reset or the connection ended."""
        def ends(found):
            return isinstance(found, (frame.HeadersFrame, frame.RstStreamFrame)) and found.stream_id == stream
        found = self.until(ends)
        return dict(found.fields)[":status"] if isinstance(found, frame.HeadersFrame) else None


def connection_error(kind, name, codes, send, **settings):
    """The gateway ends the connection, with one of these codes if it says any."""
    def run():
        connection = Connection(**settings)
        send(connection)
        last = None
        for found in connection.frames():
            if isinstance(found, frame.GoAwayFrame):
                last = found.error_code
        check(last is None or last in codes, f"GOAWAY {last}, not {codes}")
    case(kind, name, run)


def stream_error(kind, name, codes, send, stream=1, answered=False):
    """The gateway resets the stream with one of these codes, ends the connection, or answers 4xx; `answered`: after an
    answer that it may have sent already."""
    def run():
        connection = Connection()
        send(connection)
        for found in connection.frames():
            if isinstance(found, frame.RstStreamFrame) and found.stream_id == stream:
                return check(found.error_code in codes, f"RST_STREAM {found.error_code}, not {codes}")
            if isinstance(found, frame.GoAwayFrame):
                return check(found.error_code in codes, f"GOAWAY {found.error_code}, not {codes}")
            if isinstance(found, frame.HeadersFrame) and not answered:
                status = dict(found.fields)[":status"]
                return check(status.startswith("4"), f"answered {status}")
    case(kind, name, run)


def served(kind, name, send, stream=1, **settings):
    """The stream is answered 200."""
    def run():
        connection = Connection(**settings)
        send(connection)
        status = connection.status(stream)
        check(status == "200", f"answered {status}")
    case(kind, name, run)


def steps(*sends):
    return lambda connection: [send(connection) for send in sends]


def sends(data):
    return lambda connection: connection.send(data)


def headers(stream, fields=HEAD, flags=5):
    return lambda connection: connection.headers(stream, fields, flags)


def setting(identifier, value):
    return struct.pack(">HI", identifier, value)


def prefaces():
    kind = "preface"
    served(kind, "a good one", headers(1))
    # The gateway's library takes it; an idle connection's end says NO_ERROR.
    connection_error(kind, "no settings first", {0, PROTOCOL}, sends(raw(6, 0, 0, bytes(8))), first=False)
    connection_error(kind, "a broken one", {PROTOCOL}, sends(b"\0" * 24), preface=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", first=False)


def frame_headers():
    kind = "frames"
    served(kind, "an unknown type", steps(sends(raw(0xFF, 0xFF, 0, b"x" * 8)), headers(1)))
    served(kind, "unknown flags", steps(sends(raw(6, 0xFE, 0, bytes(8))), headers(1)))
    served(kind, "the reserved bit", steps(sends(raw(6, 0, 1 << 31, bytes(8))), headers(1)))
    connection_error(kind, "larger than allowed", {SIZE}, sends(raw(0, 0, 1, b"", 16385) + b"x" * 16385))
    connection_error(kind, "a large header block", {SIZE, PROTOCOL, COMPRESSION}, sends(raw(1, 5, 1, b"x" * 16385)))
    connection_error(kind, "a large ping", SIZES, sends(raw(6, 0, 0, bytes(9))))


def stream_states():
    kind = "stream states"
    for name, data in [
        ("DATA on an idle stream", raw(0, 1, 1, b"x")),
        ("RST_STREAM on an idle stream", raw(3, 0, 1, bytes(4))),
        ("WINDOW_UPDATE on an idle stream", raw(8, 0, 1, struct.pack(">I", 1))),
        ("CONTINUATION on an idle stream", raw(9, 4, 1, b"")),
        ("DATA on stream 0", raw(0, 1, 0, b"x")),
        ("HEADERS on stream 0", raw(1, 5, 0, hpack.Encoder().encode(HEAD))),
        ("RST_STREAM on stream 0", raw(3, 0, 0, bytes(4))),
        ("CONTINUATION on stream 0", raw(9, 4, 0, b"")),
        ("PRIORITY on stream 0", raw(2, 0, 0, bytes(5))),
        ("PUSH_PROMISE of a client", raw(5, 4, 1, bytes(4) + hpack.Encoder().encode(HEAD))),
        ("SETTINGS on a stream", raw(4, 0, 1, b"")),
        ("PING on a stream", raw(6, 0, 1, bytes(8))),
        ("GOAWAY on a stream", raw(7, 0, 1, bytes(8))),
    ]:
        connection_error(kind, name, {PROTOCOL}, sends(data))
    connection_error(kind, "an even stream", {PROTOCOL}, headers(2))
    connection_error(kind, "a stream below the last", {PROTOCOL, STREAM_CLOSED}, steps(headers(5), headers(3)))
    after = {STREAM_CLOSED, PROTOCOL}
    stream_error(kind, "DATA after the end", after, steps(headers(1), sends(raw(0, 1, 1, b"x"))), answered=True)
    connection_error(kind, "CONTINUATION after the end", after, steps(headers(1), sends(raw(9, 4, 1, b""))))
    served(kind, "PRIORITY on an idle stream", steps(sends(raw(2, 0, 3, struct.pack(">IB", 0, 15))), headers(5)), stream=5)


def header_blocks():
    kind = "header blocks"
    half = hpack.Encoder().encode(HEAD)
    served(kind, "in two frames", sends(raw(1, 1, 1, half[:4]) + raw(9, 4, 1, half[4:])))
    served(kind, "padded", sends(raw(1, 13, 1, b"\x04" + half + bytes(4))))
    served(kind, "with a priority", sends(raw(1, 37, 1, struct.pack(">IB", 0, 15) + half)))
    served(kind, "in three frames", sends(raw(1, 1, 1, half[:4]) + raw(9, 0, 1, half[4:9]) + raw(9, 4, 1, half[9:])))
    between = raw(1, 1, 1, half[:4])
    for name, data in [
        ("another frame between", raw(6, 0, 0, bytes(8))),
        ("another stream between", raw(1, 5, 3, half)),
        ("an unknown frame between", raw(0xFF, 0, 0, b"")),
        ("another stream's continuation", raw(9, 4, 3, half[4:])),
    ]:
        connection_error(kind, name, {PROTOCOL}, sends(between + data))
    for name, block in [
        ("an index that is not there", b"\xff\xff\xff\xff\x0f"),
        ("index 0", b"\x80"),
        ("a table larger than allowed", b"\x3f\xe1\xff\xff\x07" + half),
        ("a string that is cut off", b"\x00\x7f\xff"),
        ("Huffman's padding too long", b"\x00\x82\xff\xff\x01x"),
    ]:
        connection_error(kind, name, {COMPRESSION, PROTOCOL}, sends(raw(1, 5, 1, block)))
    connection_error(kind, "padding as long as the frame", {PROTOCOL}, sends(raw(1, 13, 1, b"\xff" + half)))
    stream_error(kind, "a stream on itself", {PROTOCOL}, sends(raw(1, 37, 1, struct.pack(">IB", 1, 15) + half)))


def floods():
    kind = "floods"
    empty = b"".join(raw(9, 0, 1, b"") for _ in range(50_000))
    connection_error(kind, "CONTINUATION without end", {PROTOCOL, CALM, SIZE, COMPRESSION, INTERNAL}, sends(raw(1, 1, 1, b"") + empty + raw(9, 4, 1, b"\x80")))
    field = b"\x00\x05x-abc\x7e" + b"a" * 126
    many = b"".join(raw(9, 0, 1, field * 100) for _ in range(100))
    stream_error(kind, "fields without end", {PROTOCOL, CALM, SIZE, REFUSED, CANCEL, COMPRESSION}, sends(raw(1, 1, 1, hpack.Encoder().encode(HEAD)) + many + raw(9, 4, 1, b"")))

    def rapid_reset(connection):
        for stream in range(1, 4001, 2):
            connection.headers(stream)
            connection.send(raw(3, 0, stream, struct.pack(">I", CANCEL)))
    connection_error(kind, "rapid reset", {CALM, PROTOCOL}, rapid_reset)

    def made_you_reset(connection):
        for stream in range(1, 4001, 2):
            connection.headers(stream)
            connection.send(raw(8, 0, stream, bytes(4)))
    connection_error(kind, "resets that we are made to send", {CALM, PROTOCOL}, made_you_reset)
    for name, data in [("settings", raw(4, 0, 0)), ("pings", raw(6, 0, 0, bytes(8))), ("priorities", raw(2, 0, 7, bytes(4) + b"\x0f"))]:
        def flood(data=data):
            connection = Connection()
            connection.send(data * 10_000)
            connection.headers(1)
            connection.status(1)
            served("floods", f"{name}, and others are served", headers(1))
        flood()


def windows():
    kind = "flow control"
    connection_error(kind, "an increment of 0", {PROTOCOL}, sends(raw(8, 0, 0, bytes(4))))
    stream_error(kind, "an increment of 0 on a stream", {PROTOCOL}, steps(headers(1, POST, 4), sends(raw(8, 0, 1, bytes(4)))))
    most = struct.pack(">I", 2**31 - 1)
    connection_error(kind, "a window beyond 2^31-1", {FLOW}, sends(raw(8, 0, 0, most) * 2))
    stream_error(kind, "a stream's window beyond 2^31-1", {FLOW}, steps(headers(1, POST, 4), sends(raw(8, 0, 1, most) * 2)))
    connection_error(kind, "an initial window beyond 2^31-1", WINDOWS, lambda connection: None, settings=setting(4, 2**31))
    connection_error(kind, "WINDOW_UPDATE of three bytes", SIZES, sends(raw(8, 0, 0, bytes(3))))
    connection_error(kind, "DATA beyond the window", {FLOW}, steps(headers(1, POST, 4), sends(raw(0, 0, 1, bytes(16384)) * 2000)))

    def small_window():
        connection = Connection(settings=setting(4, 1))
        connection.headers(1)
        found = connection.until(lambda found: isinstance(found, frame.DataFrame))
        check(len(found.data) == 1, f"{len(found.data)} bytes for a window of 1")
        connection.send(raw(8, 0, 1, struct.pack(">I", 100)))
        found = connection.until(lambda found: isinstance(found, frame.DataFrame))
        check(found.data == b"h2", f"the rest is {found.data!r}")
    case(kind, "a window of one byte", small_window)

    def negative_window():
        connection = Connection(settings=setting(4, 0))
        connection.headers(1)
        check(connection.status(1) == "200", "no answer")
        connection.send(raw(4, 0, 0, setting(4, 3)))
        found = connection.until(lambda found: isinstance(found, frame.DataFrame))
        check(found.data == b"/h2", f"after the window grew: {found.data!r}")
    case(kind, "no window, then one by settings", negative_window)


def settings():
    kind = "settings"
    for name, payload in [("push 2", setting(2, 2)), ("frames of 16,383", setting(5, 16383)), ("frames of 2^24", setting(5, 2**24))]:
        connection_error(kind, name, {PROTOCOL}, lambda connection: None, settings=payload)
    connection_error(kind, "an acknowledgement with a payload", SIZES, sends(raw(4, 1, 0, setting(1, 1))))
    connection_error(kind, "five bytes", SIZES, sends(raw(4, 0, 0, bytes(5))))
    served(kind, "an unknown one", headers(1), settings=setting(0xFF, 1))
    served(kind, "no dynamic table", headers(1), settings=setting(1, 0))
    served(kind, "a small list of headers", headers(1), settings=setting(6, 1 << 14))

    def acknowledged():
        connection = Connection()
        found = connection.until(lambda found: isinstance(found, frame.SettingsFrame) and "ACK" in found.flags)
        check(found is not None, "no acknowledgement")
    case(kind, "are acknowledged", acknowledged)


def control_frames():
    kind = "control frames"

    def ping():
        connection = Connection()
        connection.send(raw(6, 0, 0, b"12345678"))
        found = connection.until(lambda found: isinstance(found, frame.PingFrame))
        check("ACK" in found.flags and found.opaque_data == b"12345678", found)
    case(kind, "a ping comes back", ping)
    served(kind, "an answer to no ping", steps(sends(raw(6, 1, 0, bytes(8))), headers(1)))
    for name, data in [
        ("RST_STREAM of three bytes", raw(3, 0, 1, bytes(3))),
        ("PRIORITY of four bytes", raw(2, 0, 1, bytes(4))),
    ]:
        stream_error(kind, name, SIZES, steps(headers(1, POST, 4), sends(data)))
    connection_error(kind, "PING of seven bytes", SIZES, sends(raw(6, 0, 0, bytes(7))))
    connection_error(kind, "DATA with padding as long as the frame", {PROTOCOL}, steps(headers(1, POST, 4), sends(raw(0, 9, 1, b"\x06hello"))))
    served(kind, "DATA with padding", steps(headers(1, POST, 4), sends(raw(0, 9, 1, b"\x02hello\0\0"))))

    def goaway():
        connection = Connection()
        connection.headers(1)
        connection.send(raw(7, 0, 0, bytes(8)))
        check(connection.status(1) == "200", "the stream before GOAWAY was not answered")
        check(connection.until(lambda found: False) is None, "it goes on")
    case(kind, "GOAWAY ends it after the last answer", goaway)


def requests():
    kind = "requests"
    served(kind, "HEAD", headers(1, [(":method", "HEAD")] + HEAD[1:]))
    served(kind, "OPTIONS", headers(1, [(":method", "OPTIONS")] + HEAD[1:]))
    served(kind, "a body", steps(headers(1, POST, 4), sends(raw(0, 1, 1, b"hello"))))
    served(kind, "trailers", steps(headers(1, POST, 4), sends(raw(0, 0, 1, b"hello")), headers(1, [("x-digest", "a")], 5)))
    stream_error(kind, "trailers that do not end it", {PROTOCOL}, steps(headers(1, POST, 4), headers(1, [("x-digest", "a")], 4)))
    for name, fields in [
        ("a name in capitals", HEAD + [("X-A", "b")]),
        ("Connection", HEAD + [("connection", "close")]),
        ("te", HEAD + [("te", "gzip")]),
        ("a pseudo-header field twice", HEAD + [(":path", "/b")]),
        ("a pseudo-header field after others", HEAD[:3] + [("x", "y"), HEAD[3]]),
        ("no path", HEAD[:2] + HEAD[3:]),
        ("no method", HEAD[1:]),
        ("no scheme", HEAD[:1] + HEAD[2:]),
        ("an empty path", HEAD[:2] + [(":path", "")] + HEAD[3:]),
        (":status", HEAD + [(":status", "200")]),
        ("an unknown pseudo-header field", HEAD + [(":x", "y")]),
    ]:
        stream_error(kind, name, {PROTOCOL}, headers(1, fields))
    body = raw(0, 1, 1, b"hello")
    for length in ("4", "6"):
        stream_error(kind, f"five bytes for {length}", {PROTOCOL}, steps(headers(1, POST + [("content-length", length)], 4), sends(body)))

    def many():
        connection = Connection()
        for stream in range(1, 201, 2):
            connection.headers(stream)
        answered = set()
        for found in connection.frames():
            if isinstance(found, frame.HeadersFrame):
                check(dict(found.fields)[":status"] == "200", found.fields)
                answered.add(found.stream_id)
            if len(answered) == 100:
                return
        raise AssertionError(f"{len(answered)} of 100 streams were answered")
    case(kind, "a hundred at once", many)

    def no_connection_fields():
        connection = Connection()
        connection.headers(1)
        found = connection.until(lambda found: isinstance(found, frame.HeadersFrame))
        names = {name for name, _ in found.fields}
        check(not names & {"connection", "keep-alive", "transfer-encoding", "upgrade"}, names)
        check(all(name == name.lower() for name in names), names)
    case(kind, "answers have no connection fields", no_connection_fields)

    def too_many():
        connection = Connection(acknowledge=False)
        for stream in range(1, 801, 2):
            connection.headers(stream, POST, 4)
        for found in connection.frames():
            if isinstance(found, (frame.RstStreamFrame, frame.GoAwayFrame)):
                return check(found.error_code in {REFUSED, PROTOCOL, CALM}, found.error_code)
        raise AssertionError("400 streams were open at once")
    case(kind, "more streams than allowed", too_many)


for part in (prefaces, frame_headers, stream_states, header_blocks, floods, windows, settings, control_frames, requests):
    part()

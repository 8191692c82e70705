"""gRPC's own client and server, with the gateway between them; messages are bytes, so that no protoc is needed."""

import threading
import time
from concurrent import futures

import grpc

from case import case, check

GATEWAY = "127.0.0.1:8020"
SERVICE = "grpc/conformance"
CANCELLED = threading.Event()


class Servicer(grpc.GenericRpcHandler):
    """Does what the method says."""

    def service(self, details):
        kind = {
            "echo": (grpc.unary_unary_rpc_method_handler, echo),
            "slow": (grpc.unary_unary_rpc_method_handler, slow),
            "time": (grpc.unary_unary_rpc_method_handler, time_left),
            "fail": (grpc.unary_unary_rpc_method_handler, fail),
            "count": (grpc.unary_stream_rpc_method_handler, count),
            "endless": (grpc.unary_stream_rpc_method_handler, endless),
            "sum": (grpc.stream_unary_rpc_method_handler, total),
            "chat": (grpc.stream_stream_rpc_method_handler, chat),
        }.get(details.method.rsplit("/", 1)[1])
        return kind and kind[0](kind[1])


def echo(request, context):
    context.send_initial_metadata((("x-head", "1"),))
    context.set_trailing_metadata((("x-tail-bin", b"\x00\xff"),))
    return request


def slow(request, context):
    CANCELLED.clear()
    context.add_callback(CANCELLED.set)
    CANCELLED.wait(20)
    return request


def time_left(request, context):
    left = context.time_remaining()
    return b"none" if left is None or left > 1e6 else str(left).encode()


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö, 100 %")


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def endless(request, context):
    CANCELLED.clear()
    context.add_callback(CANCELLED.set)
    while context.is_active():
        yield b"more"
        time.sleep(0.01)


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield request.upper()


def failure(run):
    """How a call failed."""
    try:
        run()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def unary(channel):
    kind = "unary"
    call = channel.unary_unary(f"/{SERVICE}/echo")

    def metadata():
        answer, done = call.with_call(b"hello", timeout=20)
        check(answer == b"hello", answer)
        check(("x-head", "1") in list(done.initial_metadata()), done.initial_metadata())
        check(("x-tail-bin", b"\x00\xff") in list(done.trailing_metadata()), done.trailing_metadata())
    case(kind, "metadata at both ends", metadata)
    for size in (0, 1, 3 << 20):
        case(kind, f"{size} bytes", lambda: check(call(b"x" * size, timeout=20) == b"x" * size, "another message"))

    def at_once():
        calls = [call.future(str(number).encode(), timeout=20) for number in range(200)]
        answers = [call.result() for call in calls]
        check(answers == [str(number).encode() for number in range(200)], answers)
    case(kind, "200 at once", at_once)


def streams(channel):
    kind = "streams"

    def of_server():
        answers = list(channel.unary_stream(f"/{SERVICE}/count")(b"1000", timeout=20))
        check(answers == [str(number).encode() for number in range(1000)], len(answers))
    case(kind, "of the server", of_server)

    def of_client():
        answer = channel.stream_unary(f"/{SERVICE}/sum")((b"x" * 10_000 for _ in range(300)), timeout=20)
        check(answer == b"3000000", answer)
    case(kind, "of the client", of_client)

    def of_both():
        answered = threading.Event()

        def requests():
            for number in range(50):
                yield f"message {number}".encode()
                # The next is sent only when this one was answered: neither body waits for the other's end.
                check(answered.wait(10), "no answer amid the request")
                answered.clear()
        answers = []
        for answer in channel.stream_stream(f"/{SERVICE}/chat")(requests(), timeout=20):
            answers.append(answer)
            answered.set()
        check(answers == [f"MESSAGE {number}".encode() for number in range(50)], answers)
    case(kind, "of both, in turn", of_both)


def ends(channel):
    kind = "ends"

    def of_server():
        error = failure(lambda: channel.unary_unary(f"/{SERVICE}/fail")(b"", timeout=20))
        check(error.code() == grpc.StatusCode.FAILED_PRECONDITION, error)
        check(error.details() == "nö, 100 %", error.details())
    case(kind, "a status of the server's", of_server)

    def cancelled():
        call = channel.unary_stream(f"/{SERVICE}/endless")(b"", timeout=20)
        check(next(call) == b"more", "no answer")
        call.cancel()
        check(CANCELLED.wait(10), "the server was not told")
    case(kind, "cancelled amid the answer", cancelled)

    def given_up():
        error = failure(lambda: channel.unary_unary(f"/{SERVICE}/slow")(b"", timeout=0.3))
        check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)
        check(CANCELLED.wait(10), "the server was not told")
    case(kind, "a deadline that passes", given_up)

    def of_route():
        error = failure(lambda: channel.unary_unary(f"/{SERVICE}/short/slow")(b"", timeout=20))
        check(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)
        check("in time" in error.details(), error.details())
    case(kind, "the route's time", of_route)

    def told():
        left = float(channel.unary_unary(f"/{SERVICE}/time")(b"", timeout=20))
        # The client rounds what it sends up.
        check(0 < left < 21, left)
    case(kind, "the server knows the deadline", told)

    def none():
        left = channel.unary_unary(f"/{SERVICE}/time")(b"")
        check(left == b"none", left)
    case(kind, "no deadline is made up", none)


def refusals(channel):
    for path, code in [
        (f"/{SERVICE}/method-that-is-not-there", grpc.StatusCode.UNIMPLEMENTED),
        ("/grpc/key/echo", grpc.StatusCode.UNAUTHENTICATED),
        ("/grpc/gone/echo", grpc.StatusCode.UNAVAILABLE),
        ("/grpc/small/echo", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("/grpc//echo", grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        def refused():
            error = failure(lambda: channel.unary_unary(path)(b"x" * 1000, timeout=20))
            check(error.code() == code and error.details(), error)
        case("refusals", path, refused)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), handlers=[Servicer()])
    server.add_insecure_port("127.0.0.1:9011")
    server.start()
    with grpc.insecure_channel(GATEWAY) as channel:
        for part in (unary, streams, ends, refusals):
            part(channel)
    with open("certificate.pem", "rb") as certificate:
        credentials = grpc.ssl_channel_credentials(certificate.read())
    options = [("grpc.ssl_target_name_override", "a.example")]
    with grpc.secure_channel("127.0.0.1:8443", credentials, options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/echo")
        case("TLS", "unary", lambda: check(call(b"hello", timeout=20) == b"hello", "another message"))
    server.stop(None).wait()


main()

//! Which time ran out is said.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::stage::{Origin, Stage, findings};

#[test]
fn each_time_has_a_word_of_its_own() {
    let slow = Origin::start("slow");
    slow.becomes("delay=10");
    for (upstream, route, reason) in [
        ("", "timeout: 300ms", "timeout"),
        ("first_byte_timeout: 300ms", "", "first_byte_timeout"),
        ("retry: { on: [timeout], tries: 1, per_try_timeout: 300ms }", "", "try_timeout"),
    ] {
        let stage = Stage::set(&[slow.address], upstream, route);
        assert_eq!((stage.get().status, stage.failures(reason)), (504, 1), "{reason}");
    }
}

#[test]
fn a_connection_that_does_not_stand_in_time() {
    // Two connections fill the queue of one; a third gets no answer to its SYN.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let socket = socket2::SockRef::from(&full);
    socket.listen(0).unwrap();
    let _waiting: Vec<_> =
        (0..2).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200))).collect();
    let stage = Stage::set(&[address], "connect_timeout: 200ms, retry: { on: [connect], tries: 1 }", "");
    assert_eq!((stage.get().status, stage.failures("connect_timeout")), (502, 1));
}

#[test]
fn the_first_byte_may_take_as_long_as_the_client_sends() {
    let origin = Origin::start("well");
    let stage = Stage::set(&[origin.address], "first_byte_timeout: 200ms", "");
    let mut stream = TcpStream::connect(stage.running().addresses[0]).unwrap();
    stream
        .write_all(b"PUT /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 8\r\n\r\nhalf")
        .unwrap();
    // Longer than the service has, and not its fault.
    std::thread::sleep(Duration::from_millis(500));
    stream.write_all(b"half").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("well 8"), "{answer}");
}

#[test]
fn a_route_says_how_long_its_answers_may_stand_still() {
    let slow = Origin::start("slow");
    let upstream = format!("endpoints: ['{}']", slow.address);
    let set = |stall: &str, route: &str| {
        Stage::written(&upstream, route, &format!("timeouts: {{ stall: {stall} }}"))
    };
    slow.becomes("pause=0.4");
    let patient = set("200ms", "stall: 20s");
    let got = patient.curl(&["-N"], "/events").answer();
    assert_eq!((got.status, got.body.as_str()), (200, "data: 0\n\ndata: 1\n\ndata: 2\n\n"));
    slow.becomes("pause=15");
    let strict = set("20s", "stall: 200ms");
    // What came is there before the rest is: nothing is held back.
    let got = strict.curl(&["-N"], "/events").answer();
    assert_eq!((got.status, got.body.as_str()), (200, "data: 0\n\n"));
    assert_eq!((strict.failures("answer_stalled"), patient.failures("answer_stalled")), (1, 0));
}

#[test]
fn a_stall_that_can_never_be() {
    assert!(findings("endpoints: ['127.0.0.1:1']", "stall: 0s").contains("routes[0].stall: longer than 0s"));
}

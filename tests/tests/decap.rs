//! `lbctl decap` on a backend: tunnel packets, made by etherparse, reach sockets that know nothing of tunnels.

mod decap {
    pub mod stage;
    pub mod tunnel;
}

use anyhow::{Context as _, Result, ensure};
use etherparse::{SlicedPacket, TcpHeader, TransportSlice};
use tests::xdp::PassProgram;

use crate::decap::{
    stage::{LIMIT, Stage},
    tunnel::{BALANCER_4, Family, PORT, TUNNELS, Tunnel, datagram, in_tunnel, segment},
};

/// Codepoints of the ECN field.
const ECN: [u8; 4] = [0, 2, 1, 3];
const GUE: Tunnel = TUNNELS[1];

#[test]
fn every_tunnel_reaches_a_socket() -> Result<()> {
    for mode in ["driver", "generic"] {
        let stage = Stage::new()?;
        ensure!(stage.lbctl_ok(&["attach", "--interface", "eth0", "--mode", mode])?.contains(mode));
        let sockets = Family::BOTH.map(|family| stage.bind(family));
        for tunnel in TUNNELS {
            for around in Family::BOTH {
                for (within, socket) in Family::BOTH.into_iter().zip(&sockets) {
                    let name = format!("{mode}: {within:?} in {around:?} by {tunnel:?}");
                    let inner = datagram(within, 0, name.as_bytes());
                    stage.wire.send(&in_tunnel(tunnel, around, within, 0, &inner))?;
                    let arrived = socket.as_ref().expect("bound").receive().context(name.clone())?;
                    assert_eq!(arrived.payload, name.as_bytes());
                    assert_eq!(arrived.from, within.client());
                }
            }
        }
        assert_eq!((stage.reason("ipip")?, stage.reason("gue")?), (4, 8));

        // What follows arrives first: the tunnel packet before it was nobody's.
        stage.lbctl_ok(&["detach", "--interface", "eth0"])?;
        let socket = sockets[0].as_ref().expect("bound");
        let inner = datagram(Family::V4, 0, b"in a tunnel");
        stage.wire.send(&in_tunnel(TUNNELS[0], Family::V4, Family::V4, 0, &inner))?;
        stage.wire.send(&stage.plain(Family::V4, b"plain"))?;
        assert_eq!(socket.receive()?.payload, b"plain");
    }
    Ok(())
}

/// Larger than a page: such a packet is in several buffers.
#[test]
fn jumbo_frames_come_out_whole() -> Result<()> {
    const MTU: usize = 9_000;
    let stage = Stage::new()?;
    stage.set_mtu(MTU)?;
    for mode in ["driver", "generic"] {
        stage.lbctl_ok(&["attach", "--interface", "eth0", "--mode", mode])?;
        for within in Family::BOTH {
            let socket = stage.bind(within)?;
            for (tunnel, around) in [(TUNNELS[0], within.other()), (GUE, within)] {
                let largest = MTU - overhead(within, tunnel, around);
                for length in [1_400, 3_900, 4_096, largest] {
                    let payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
                    let inner = datagram(within, 0, &payload);
                    stage.wire.send(&in_tunnel(tunnel, around, within, 1, &inner))?;
                    let arrived = socket.receive().with_context(|| format!("{mode}: {length} bytes"))?;
                    assert!(arrived.payload == payload, "{mode}: {length} bytes of {tunnel:?} changed");
                }
            }
        }
        stage.lbctl_ok(&["detach", "--interface", "eth0"])?;
    }
    Ok(())
}

/// Bytes of every header around a payload.
fn overhead(within: Family, tunnel: Tunnel, around: Family) -> usize {
    in_tunnel(tunnel, around, within, 0, &datagram(within, 0, &[])).len() - 14
}

/// RFC 6040, figure 4, as a socket sees it.
#[test]
fn congestion_reaches_the_socket() -> Result<()> {
    const DROP: u8 = 9;
    // Rows are the inner field, columns the outer one, both in the order of `ECN`.
    const TABLE: [[u8; 4]; 4] = [[0, 0, 0, DROP], [2, 2, 1, 3], [1, 1, 1, 3], [3, 3, 3, 3]];
    let stage = Stage::new()?;
    stage.lbctl_ok(&["attach", "--interface", "eth0"])?;
    for within in Family::BOTH {
        let socket = stage.bind(within)?;
        for around in Family::BOTH {
            for (row, inner) in TABLE.iter().zip(ECN) {
                for (&expected, outer) in row.iter().zip(ECN) {
                    let name = format!("{inner} of {within:?} in {outer} of {around:?}");
                    let dscp = 46 << 2;
                    let packet = datagram(within, dscp | inner, name.as_bytes());
                    stage.wire.send(&in_tunnel(GUE, around, within, outer, &packet))?;
                    if expected == DROP {
                        stage.wire.send(&stage.plain(within, b"dropped"))?;
                        assert_eq!(socket.receive()?.payload, b"dropped", "{name}");
                        continue;
                    }
                    let arrived = socket.receive().context(name.clone())?;
                    assert_eq!((arrived.payload, arrived.class), (name.into_bytes(), dscp | expected));
                }
            }
        }
    }
    assert_eq!(stage.reason("congestion_unmarkable")?, 4);
    Ok(())
}

/// The server's answers go straight to the client; what the client sends comes in a tunnel.
#[test]
fn a_connection_is_opened_through_every_tunnel() -> Result<()> {
    let stage = Stage::new()?;
    stage.lbctl_ok(&["attach", "--interface", "eth0"])?;
    for within in Family::BOTH {
        let listener = stage.listen(within)?;
        for (client_port, tunnel) in (40_000..).zip(TUNNELS) {
            let around = if client_port % 2 == 0 { within } else { within.other() };
            let send = |header: TcpHeader, payload: &[u8]| {
                let inner = segment(within, header, payload);
                stage.wire.send(&in_tunnel(tunnel, around, within, 0, &inner))
            };
            let mut header = TcpHeader::new(client_port, PORT, 1_000, 64_000);
            header.syn = true;
            send(header.clone(), &[])?;
            let answer = stage.wire.receive(LIMIT, |frame| {
                let packet = SlicedPacket::from_ethernet(frame).ok()?;
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
                (tcp.destination_port() == client_port && tcp.syn() && tcp.ack()).then(|| tcp.to_header())
            })?;
            (header.syn, header.ack, header.psh) = (false, true, true);
            header.sequence_number = answer.acknowledgment_number;
            header.acknowledgment_number = answer.sequence_number + 1;
            let said = format!("by {tunnel:?}");
            send(header, said.as_bytes())?;
            let (from, heard) = listener.hear(said.len())?;
            assert_eq!((from.ip(), from.port()), (within.client().ip(), client_port));
            assert_eq!(heard, said.as_bytes());
        }
    }
    Ok(())
}

#[test]
fn only_listed_sources_get_in() -> Result<()> {
    let stage = Stage::new()?;
    let socket = stage.bind(Family::V4)?;
    for (from, gets_in) in [
        (vec!["--from", "10.20.0.0/24"], true),
        (vec!["--from", "0.0.0.0/0"], true),
        (vec!["--from", "fd20::/64", "--from", BALANCER_4], true),
        (vec!["--from", "fd20::/64"], false),
        (vec!["--from", "10.20.1.0/24", "--from", "::/0"], false),
        (vec![], true),
    ] {
        stage.lbctl_ok(&[&["attach", "--interface", "eth0"], from.as_slice()].concat())?;
        for (tunnel, around) in [(TUNNELS[0], Family::V4), (GUE, Family::V4)] {
            let inner = datagram(Family::V4, 0, b"injected");
            stage.wire.send(&in_tunnel(tunnel, around, Family::V4, 0, &inner))?;
            stage.wire.send(&stage.plain(Family::V4, b"plain"))?;
            if gets_in {
                assert_eq!(socket.receive()?.payload, b"injected", "{from:?}");
            }
            assert_eq!(socket.receive()?.payload, b"plain", "{from:?}");
        }
        assert_eq!(stage.reason("source_refused")?, if gets_in { 0 } else { 2 }, "{from:?}");
    }
    Ok(())
}

/// Another program with other options takes over what is attached, and status tells them.
#[test]
fn what_is_attached_is_attached_again() -> Result<()> {
    let stage = Stage::new()?;
    let socket = stage.bind(Family::V4)?;
    ensure!(stage.lbctl_ok(&["status"])? == "attached nowhere\n");
    stage.lbctl_ok(&["attach", "--interface", "eth0", "--mode", "generic"])?;
    stage.lbctl_ok(&["attach", "--interface", "eth0", "--gue-port", "6081", "--from", "10.0.0.7/8"])?;
    let status = stage.status()?;
    let one = &status["interfaces"][0];
    for (field, expected) in [("interface", "\"eth0\""), ("mode", "\"generic\""), ("gue_port", "6081")] {
        assert_eq!(one[field].to_string(), expected, "{status}");
    }
    assert_eq!(one["from"].to_string(), "[\"10.0.0.0/8\"]", "{status}");
    let shown = stage.lbctl_ok(&["status"])?;
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["interface eth0 (", "mode generic GUE port 6081 from 10.0.0.0/8 ipip 0 gue 0"] {
        ensure!(shown.contains(words), "{words:?}: {shown}");
    }

    // The old port is nobody's any more.
    let inner = datagram(Family::V4, 0, b"to 6080");
    stage.wire.send(&in_tunnel(GUE, Family::V4, Family::V4, 0, &inner))?;
    stage.wire.send(&stage.plain(Family::V4, b"plain"))?;
    assert_eq!(socket.receive()?.payload, b"plain");
    assert_eq!(stage.reason("gue")?, 0);
    ensure!(stage.lbctl_ok(&["status", "--interface", "eth0"])?.contains("interface"));
    ensure!(stage.lbctl_ok(&["status", "--interface", "eth1"])? == "attached nowhere\n");
    stage.lbctl_ok(&["detach", "--interface", "eth0"])?;
    ensure!(stage.lbctl_ok(&["status"])? == "attached nowhere\n");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_in_words() -> Result<()> {
    let stage = Stage::new()?;
    let many: Vec<String> = (0..17).map(|number| format!("--from=10.{number}.0.0/16")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let attach = ["attach", "--interface", "eth0"];
    for (arguments, words) in [
        (vec!["attach", "--interface", "eth9"], "interface eth9: No such device"),
        (vec!["detach", "--interface", "eth0"], "interface eth0: lbctl attached nothing there"),
        (vec!["detach", "--interface", "eth9"], "interface eth9"),
        ([&attach[..], &many].concat(), "17 networks of sources: there is room for 16"),
        ([&attach[..], &["--from", "10.0.0.0/33"]].concat(), "must be an IP address"),
        ([&attach[..], &["--gue-port", "0"]].concat(), "0 is not in 1..=65535"),
        ([&attach[..], &["--pin-dir", "/proc/decap"]].concat(), "is a bpffs mounted there?"),
        (vec!["attach", "--interface", "lo", "--mode", "driver"], "XDP cannot be attached in mode driver"),
    ] {
        let refusal = stage.refused(&arguments)?;
        ensure!(refusal.contains(words), "{arguments:?}: {refusal}");
    }
    let other = PassProgram::attach(&stage.backend, "eth0")?;
    let refusal = stage.refused(&attach)?;
    ensure!(refusal.contains("another XDP program is attached"), "{refusal}");
    ensure!(stage.lbctl_ok(&["status"])? == "attached nowhere\n", "a refusal left something behind");
    drop(other);
    stage.lbctl_ok(&[&attach[..], &["--mode", "driver"]].concat())?;
    let refusal = stage.refused(&[&attach[..], &["--mode", "generic"]].concat())?;
    ensure!(refusal.contains("it runs there in mode driver already"), "{refusal}");
    Ok(())
}

/// An interface that vanishes leaves its pins behind; they can be removed, or make room for the next of its number.
#[test]
fn a_vanished_interface_is_detached_by_its_number() -> Result<()> {
    let stage = Stage::new()?;
    stage.lbctl_ok(&["attach", "--interface", "eth0"])?;
    let number = stage.status()?["interfaces"][0]["ifindex"].to_string();
    stage.backend.ip("link del eth0")?;
    ensure!(stage.lbctl_ok(&["status"])?.contains(&format!("gone ({number})")));
    stage.connect_as(&number)?;
    stage.lbctl_ok(&["attach", "--interface", "eth0"])?;
    assert_eq!(stage.status()?["interfaces"][0]["interface"], "eth0");
    stage.backend.ip("link del eth0")?;
    stage.lbctl_ok(&["detach", "--interface", &number])?;
    ensure!(stage.lbctl_ok(&["status"])? == "attached nowhere\n");
    Ok(())
}

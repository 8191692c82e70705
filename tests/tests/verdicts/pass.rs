//! Packets that are left to the stack untouched, and ARP.

use std::net::{Ipv4Addr, SocketAddr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpNumber, PacketBuilder};
use lb_common::Reason;
use tests::packet::Frame;

use crate::{
    row::{Action, Row, ack, datagram, segment, stays, syn},
    world::{
        CLIENT, CLIENT_MAC, INGRESS_MAC, LOCAL, STRANGER,
        Svc::{DsrTcp, NatTcp, NatUdp},
        VIP, VIP_DSR,
        Who::A,
    },
};

pub fn rows() -> Vec<Row> {
    [not_ours(), backends(), not_ip(), arp()].concat()
}

fn not_ours() -> Vec<Row> {
    let row = |name, packet| stays(NatTcp, name, &[], packet, Reason::NotOurs);
    let came = NatTcp.client_packet();
    let to = |destination| Frame { destination, ..came };
    let stranger = to(STRANGER);
    let mut other_port = NatTcp.vip();
    other_port.set_port(81);
    let fragment = {
        let mut bytes = segment(&stranger);
        bytes[20] = 0x20;
        bytes
    };
    let with_options = {
        let mut bytes = segment(&stranger);
        bytes[14] = 0x46;
        bytes
    };
    let changed = |mut bytes: Vec<u8>, at: usize, byte: u8| {
        bytes[at] = byte;
        bytes
    };
    let gre = || came.ip_with(IpNumber::GRE, &[0; 12]);
    vec![
        row("a broadcast frame for a virtual address", changed(segment(&came), 0, 0xff)),
        row("a multicast frame for a virtual address", changed(segment(&came), 0, 0x01)),
        row("a fragment of GRE to a virtual address", changed(gre(), 20, 0x20)),
        row("GRE with options to a virtual address", changed(gre(), 14, 0x46)),
        row("another address", syn(&stranger)),
        row("another port", syn(&to(other_port))),
        row("the port of another protocol", datagram(&came)),
        row("another port, last hop", syn(&Frame { ttl: 1, ..to(other_port) })),
        row("an ICMP timestamp", came.ip_with(IpNumber::ICMP, &[13, 0, 0xf2, 0xff, 0, 0, 0, 0])),
        row("SCTP to a virtual address", came.ip_with(IpNumber::SCTP, &[0; 12])),
        row("a fragment to another address", fragment),
        row("options to another address", with_options),
        row("another address, cut", segment(&stranger)[..40].to_vec()),
    ]
}

fn backends() -> Vec<Row> {
    let reply = NatTcp.backend_packet(A);
    let mut other_port = reply.source;
    other_port.set_port(22);
    let to_local = |frame: Frame| Frame { destination: SocketAddr::new(LOCAL.into(), 50_000), ..frame };
    vec![
        stays(NatTcp, "health check's answer", &[], ack(&to_local(reply)), Reason::LocalReply),
        stays(NatUdp, "local answer", &[], datagram(&to_local(NatUdp.backend_packet(A))), Reason::LocalReply),
        stays(
            NatTcp,
            "a backend's other port",
            &[],
            ack(&Frame { source: other_port, ..reply }),
            Reason::NotOurs,
        ),
        stays(NatTcp, "a backend's other protocol", &[], datagram(&reply), Reason::NotOurs),
        stays(DsrTcp, "who answers by himself", &[], ack(&DsrTcp.backend_packet(A)), Reason::NotOurs),
    ]
}

fn not_ip() -> Vec<Row> {
    let row = |name, packet| stays(NatTcp, name, &[], packet, Reason::NotIp);
    let ethernet = || PacketBuilder::ethernet2(CLIENT_MAC, INGRESS_MAC);
    let mut ipv6 = Vec::new();
    let step = ethernet().ipv6([0x20; 16], [0x21; 16], 64).tcp(CLIENT.port(), 80, 1, 1_000);
    step.write(&mut ipv6, b"").expect("a vector takes every byte");
    let mut unknown = ack(&NatTcp.client_packet());
    unknown[12..14].copy_from_slice(&[0x88, 0xb5]);
    vec![stays(NatTcp, "IPv6", &[], ipv6, Reason::NotOurs), row("another ether type", unknown)]
}

struct Arp {
    operation: ArpOperation,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
}

impl Arp {
    fn request(target: Ipv4Addr) -> Self {
        Self {
            operation: ArpOperation::REQUEST,
            sender: (CLIENT_MAC, Ipv4Addr::new(198, 18, 3, 7)),
            target: ([0; 6], target),
        }
    }

    fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            self.operation,
            &self.sender.0,
            &self.sender.1.octets(),
            &self.target.0,
            &self.target.1.octets(),
        );
        let step = PacketBuilder::ethernet2(self.sender.0, to).arp(packet.expect("lengths are right"));
        let mut bytes = Vec::new();
        step.write(&mut bytes).expect("a vector takes every byte");
        bytes
    }
}

fn arp() -> Vec<Row> {
    const EVERYBODY: [u8; 6] = [0xff; 6];
    let request = Arp::request(VIP).frame(EVERYBODY);
    let answered = |name, request: Arp, to| Row {
        reason: Reason::ArpAnswered,
        action: Action::Tx,
        out: Arp { operation: ArpOperation::REPLY, sender: (INGRESS_MAC, VIP), target: request.sender }
            .frame(request.sender.0),
        ..stays(NatTcp, name, &[], request.frame(to), Reason::NotIp)
    };
    let silent = |name, packet| stays(NatTcp, name, &[], packet, Reason::NotIp);
    let probe = Arp { sender: (CLIENT_MAC, Ipv4Addr::UNSPECIFIED), ..Arp::request(VIP) };
    let gratuitous = Arp { sender: (CLIENT_MAC, VIP), ..Arp::request(VIP) };
    let reply = Arp { operation: ArpOperation::REPLY, ..Arp::request(VIP) };
    let mut other_hardware = request.clone();
    other_hardware[15] = 6;
    let mut other_protocol = request.clone();
    other_protocol[16] = 0x86;
    let mut other_lengths = request.clone();
    other_lengths[18] = 8;
    let mut rows = vec![
        answered("ARP request", Arp::request(VIP), EVERYBODY),
        answered("ARP request, to nobody else", Arp::request(VIP), INGRESS_MAC),
        answered("ARP probe", probe, EVERYBODY),
        silent(
            "ARP request for another address",
            Arp::request(Ipv4Addr::new(203, 0, 113, 200)).frame(EVERYBODY),
        ),
        silent(
            "ARP request for an address that is not to be answered for",
            Arp::request(VIP_DSR).frame(EVERYBODY),
        ),
        silent("ARP request for the balancer's own address", Arp::request(LOCAL).frame(EVERYBODY)),
        silent("gratuitous ARP", gratuitous.frame(EVERYBODY)),
        silent("ARP reply", reply.frame(INGRESS_MAC)),
        silent("ARP of another hardware", other_hardware),
        silent("ARP of another protocol", other_protocol),
        silent("ARP of other lengths", other_lengths),
    ];
    rows.extend((14..request.len()).map(|length| {
        stays(NatTcp, &format!("ARP cut to {length} bytes"), &[], request[..length].to_vec(), Reason::NotIp)
    }));
    rows
}

//! The PROXY protocol, versions 1 and 2: what a balancer in front says of a connection before its first byte
//! (HAProxy's `doc/proxy-protocol.txt`).
//!
//! Pure. Only sources that the configuration names are asked for it: anybody can claim an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// How version 2 begins: no version of HTTP or TLS does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2: signature, command, family, length.
const FIXED_BYTES: usize = 16;
/// Addresses, and more type-length-values than balancers are known to send. They are skipped.
const REST_BYTES_MAX: usize = 4096;
/// Version 1: its longest line, CRLF included.
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";

/// What stood in front of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// So many bytes of it.
    pub bytes: usize,
    /// The client; none where the balancer speaks for itself (LOCAL, UNKNOWN) or the client has no address of IP.
    pub client: Option<SocketAddr>,
}

/// Bytes that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoHeader {
    /// It begins otherwise.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// A line that is none of version 1.
    #[error("the PROXY line is malformed")]
    Line,
    /// A version or command that does not exist.
    #[error("the PROXY header has an unknown version or command")]
    Command,
    /// Longer than anybody needs, or shorter than its addresses.
    #[error("the PROXY header has a wrong length")]
    Length,
}

/// Reads a header; none as long as bytes are lacking.
///
/// # Errors
/// [`NoHeader`].
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let begins = |with: &[u8]| bytes.starts_with(with) || with.starts_with(bytes);
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(LINE_START) {
        line(bytes)
    } else {
        Err(NoHeader::Missing)
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > REST_BYTES_MAX {
        return Err(NoHeader::Length);
    }
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(NoHeader::Command),
    };
    let Some(rest) = bytes.get(FIXED_BYTES..FIXED_BYTES + length) else { return Ok(None) };
    let client = match fixed[13] {
        _ if local => None,
        // TCP over IPv4, over IPv6; sources, destinations, ports.
        0x11 => Some(address::<4, 12>(rest, |octets| Ipv4Addr::from(octets).into())?),
        0x21 => Some(address::<16, 36>(rest, |octets| Ipv6Addr::from(octets).into())?),
        _ => None,
    };
    Ok(Some(Header { bytes: FIXED_BYTES + length, client }))
}

/// The source among `ALL` bytes: two addresses of `SIZE`, two ports.
fn address<const SIZE: usize, const ALL: usize>(
    rest: &[u8],
    ip: impl Fn([u8; SIZE]) -> IpAddr,
) -> Result<SocketAddr, NoHeader> {
    let all = rest.first_chunk::<ALL>().ok_or(NoHeader::Length)?;
    let source = all.first_chunk::<SIZE>().ok_or(NoHeader::Length)?;
    let port = u16::from_be_bytes([all[2 * SIZE], all[2 * SIZE + 1]]);
    Ok(SocketAddr::new(ip(*source), port))
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(feed) = memchr::memchr(b'\n', within) else {
        return if within.len() == LINE_BYTES_MAX { Err(NoHeader::Line) } else { Ok(None) };
    };
    let text = within[..feed].strip_suffix(b"\r").ok_or(NoHeader::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| NoHeader::Line)?;
    let words: Vec<&str> = text.split(' ').collect();
    let client = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let ip = |text: &str| {
                let ip = text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == (family == "TCP4"));
                ip.ok_or(NoHeader::Line)
            };
            let port = |text: &str| {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u16>().ok().filter(|_| digits).ok_or(NoHeader::Line)
            };
            ip(destination)?;
            port(destination_port)?;
            Some(SocketAddr::new(ip(source)?, port(source_port)?))
        }
        _ => return Err(NoHeader::Line),
    };
    Ok(Some(Header { bytes: feed + 1, client }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];

    #[test]
    fn headers_are_read_whole_and_waited_for_in_pieces() {
        let v6 = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 80, 0, 81]]
            .concat();
        let with_tlv = [V4, &[0x04, 0, 3, b'a', b'b', b'c']].concat();
        for (bytes, client) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(), Some("192.0.2.7:4711")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 80 81\r\n".to_vec(), Some("[2001:db8::1]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (version2(0x21, 0x11, V4), Some("192.0.2.7:4711")),
            (version2(0x21, 0x11, &with_tlv), Some("192.0.2.7:4711")),
            (version2(0x21, 0x21, &v6), Some("[2001:db8::1]:80")),
            (version2(0x21, 0x31, &[0; 216]), None),
            (version2(0x20, 0x00, &[]), None),
            (version2(0x20, 0x11, V4), None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{end} bytes of {shown:?}");
            }
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&more), Ok(Some(Header { bytes: bytes.len(), client })), "{shown:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (bytes, refused) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), NoHeader::Missing),
            (b"\r\n\r\nGET".to_vec(), NoHeader::Missing),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n".to_vec(), NoHeader::Line),
            (b"PROXY TCP4 2001:db8::1 2001:db8::2 80 81\r\n".to_vec(), NoHeader::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".to_vec(), NoHeader::Line),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n".to_vec(), NoHeader::Line),
            (b"PROXY TCP4  192.0.2.7 198.51.100.1 1 443\r\n".to_vec(), NoHeader::Line),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n".to_vec(), NoHeader::Line),
            ([b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat(), NoHeader::Line),
            (version2(0x11, 0x11, V4), NoHeader::Command),
            (version2(0x22, 0x11, V4), NoHeader::Command),
            (version2(0x21, 0x11, &V4[..11]), NoHeader::Length),
            (version2(0x21, 0x11, &[0; REST_BYTES_MAX + 1]), NoHeader::Length),
        ] {
            assert_eq!(parse(&bytes), Err(refused), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            start in prop::sample::select(vec![&SIGNATURE[..], LINE_START, b"", b"PROXY TCP4 "]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.bytes <= bytes.len());
            }
        }
    }
}

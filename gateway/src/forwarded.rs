//! What proxies in front say of a client, and what services are told: `X-Forwarded-For`, `-Proto` and `-Host`, or
//! `Forwarded` (RFC 7239).
//!
//! Anybody can write these headers, so they count only in requests of trusted proxies, and of the two families only the
//! one that the configuration names: a proxy that sets one of them lets the client's own other one through. The client
//! is the right-most address that is no trusted proxy's; what stands left of it is hearsay.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{FORWARDED, HOST},
};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{admit::Received, pipeline::Peer};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whom to believe, and which headers are spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies in front.
    pub trusted: Vec<IpNet>,
    /// Which headers.
    pub family: Family,
}

/// Which headers name the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, read and sent.
    #[default]
    XForwardedFor,
    /// `Forwarded`, read and sent.
    Forwarded,
    /// `X-Forwarded-For`, `-Proto`, `-Host` read, and both sent.
    Both,
}

/// The proxy by which a client came.
#[derive(Debug, PartialEq, Eq)]
pub struct Proxied {
    address: IpAddr,
    https: bool,
    /// What it said in its family's header, in the form of `Forwarded`.
    chain: Option<String>,
    host: Option<HeaderValue>,
}

/// One hop, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<SocketAddr>,
    https: Option<bool>,
    host: Option<String>,
}

/// The client behind `peer`, if that is a trusted proxy.
pub fn through(forwarding: &Forwarding, peer: &Peer, headers: &HeaderMap) -> Option<Box<Peer>> {
    if !forwarding.trusts(peer.address.ip()) {
        return None;
    }
    let family = match forwarding.family {
        Family::XForwardedFor | Family::Both => FORWARDED_FOR,
        Family::Forwarded => FORWARDED,
    };
    let said = joined(headers, &family);
    let hops = match forwarding.family {
        Family::XForwardedFor | Family::Both => said.as_deref().map(hops_by_address),
        Family::Forwarded => said.as_deref().map(hops),
    };
    let hops = hops.unwrap_or_default();
    let (address, at) = forwarding.client(peer.address, &hops);
    let (https, host) = match forwarding.family {
        Family::XForwardedFor | Family::Both => (
            headers.get(FORWARDED_PROTO).map(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")),
            headers.get(FORWARDED_HOST).cloned(),
        ),
        Family::Forwarded => {
            let told = at.and_then(|at| hops.get(at)).cloned().unwrap_or_default();
            (told.https, told.host.and_then(|host| HeaderValue::try_from(host).ok()))
        }
    };
    let chain = match forwarding.family {
        Family::XForwardedFor => None,
        Family::Forwarded => said.clone(),
        Family::Both => said.is_some().then(|| hops.iter().map(node).collect::<Vec<_>>().join(", ")),
    };
    let own = peer.forwarded_for.to_str().unwrap_or_default();
    let told = match forwarding.family {
        Family::XForwardedFor | Family::Both => said,
        Family::Forwarded => None,
    };
    let forwarded_for = match told.filter(|told| !told.is_empty()) {
        Some(told) => HeaderValue::try_from(format!("{told}, {own}")).ok(),
        None => None,
    };
    let proxied = Proxied { address: peer.address.ip(), https: peer.https, chain, host };
    Some(Box::new(Peer {
        address,
        forwarded_for: forwarded_for.unwrap_or_else(|| peer.forwarded_for.clone()),
        https: https.unwrap_or(peer.https),
        certificate: peer.certificate.clone(),
        proxied: Some(Arc::new(proxied)),
    }))
}

/// Tells a service who asks.
pub fn tell(headers: &mut HeaderMap, request: &Received) {
    let (peer, family) = (&request.peer, request.family);
    let host = request.head.headers.get(HOST);
    if family == Family::Forwarded {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
            headers.remove(name);
        }
    } else {
        headers.insert(FORWARDED_FOR, peer.forwarded_for.clone());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if peer.https { "https" } else { "http" }));
        let told = peer.proxied.as_ref().and_then(|proxied| proxied.host.as_ref());
        match told.or(host) {
            Some(host) => drop(headers.insert(FORWARDED_HOST, host.clone())),
            None => drop(headers.remove(FORWARDED_HOST)),
        }
    }
    if family != Family::XForwardedFor
        && let Ok(value) = HeaderValue::try_from(element(peer, host))
    {
        headers.insert(FORWARDED, value);
    }
}

impl Forwarding {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// The right-most address that is not trusted, and the hop that named it; the left-most of those that are known
    /// where all are.
    fn client(&self, peer: SocketAddr, hops: &[Hop]) -> (SocketAddr, Option<usize>) {
        let (mut client, mut at) = (peer, None);
        for (index, hop) in hops.iter().enumerate().rev() {
            let Some(address) = hop.address else { break };
            (client, at) = (address, Some(index));
            if !self.trusts(address.ip()) {
                break;
            }
        }
        (client, at)
    }
}

/// What `Forwarded` becomes: what was said, and our own word on who connected.
fn element(peer: &Peer, host: Option<&HeaderValue>) -> String {
    let (address, https, chain) = match &peer.proxied {
        Some(proxied) => (proxied.address, proxied.https, proxied.chain.as_deref()),
        None => (peer.address.ip(), peer.https, None),
    };
    let mut text =
        chain.filter(|chain| !chain.is_empty()).map_or_else(String::new, |chain| format!("{chain}, "));
    text.push_str(&node(&Hop { address: Some(SocketAddr::new(address, 0)), ..Hop::default() }));
    // The screen lets no quote into a host.
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        // Writing to memory cannot fail.
        let _ = write!(text, ";host=\"{host}\"");
    }
    text.push_str(if https { ";proto=https" } else { ";proto=http" });
    text
}

/// `for=` of a hop; addresses of IPv6 and all with a port are quoted (RFC 7239, 6).
fn node(hop: &Hop) -> String {
    match hop.address {
        Some(SocketAddr::V4(v4)) if v4.port() == 0 => format!("for={}", v4.ip()),
        Some(SocketAddr::V6(v6)) if v6.port() == 0 => format!("for=\"[{}]\"", v6.ip()),
        Some(address) => format!("for=\"{address}\""),
        None => "for=unknown".to_owned(),
    }
}

/// All lines of a header as one list; none if it is not there or no text.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Result<Vec<&str>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    lines.ok().filter(|lines| !lines.is_empty()).map(|lines| lines.join(", "))
}

fn hops_by_address(text: &str) -> Vec<Hop> {
    text.split(',').map(|word| Hop { address: address(word.trim()), ..Hop::default() }).collect()
}

/// The elements of `Forwarded`.
fn hops(text: &str) -> Vec<Hop> {
    let hop = |element: &str| {
        let mut hop = Hop::default();
        for pair in split_unquoted(element, ';') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => hop.address = address(value),
                "proto" => hop.https = Some(value.eq_ignore_ascii_case("https")),
                "host" => hop.host = Some(value.to_owned()),
                _ => {}
            }
        }
        hop
    };
    split_unquoted(text, ',').map(hop).collect()
}

/// Parts between separators that stand outside of quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |letter| {
        quoted ^= letter == '"';
        letter == separator && !quoted
    })
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; the port is 0 where none is said.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip.to_canonical(), 0)).ok();
    ip.or_else(|| {
        let address: SocketAddr = text.parse().ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    })
}

#[cfg(test)]
mod tests;

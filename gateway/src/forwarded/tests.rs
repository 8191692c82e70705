//! Who the client is, by what is said and who says it.

use super::*;

fn peer(address: &str) -> Peer {
    let forwarded_for = HeaderValue::from_str(address).unwrap();
    Peer {
        address: SocketAddr::new(address.parse().unwrap(), 9),
        forwarded_for,
        https: true,
        certificate: None,
        proxied: None,
    }
}

fn forwarding(family: Family) -> Forwarding {
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec();
    Forwarding { trusted, family }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let lines = lines.iter();
    lines
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

#[test]
fn the_client_is_the_right_most_that_is_not_trusted() {
    for (said, client, chain) in [
        (&["192.0.2.1"][..], "192.0.2.1:0", "192.0.2.1, 10.0.0.1"),
        (&["6.6.6.6, 192.0.2.1"], "192.0.2.1:0", "6.6.6.6, 192.0.2.1, 10.0.0.1"),
        (&["192.0.2.1, 10.0.0.9"], "192.0.2.1:0", "192.0.2.1, 10.0.0.9, 10.0.0.1"),
        (&["6.6.6.6", "192.0.2.1 , 10.1.1.1"], "192.0.2.1:0", "6.6.6.6, 192.0.2.1 , 10.1.1.1, 10.0.0.1"),
        (&["10.0.0.3, 10.0.0.2"], "10.0.0.3:0", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
        (&["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2:0", "6.6.6.6, unknown, 10.0.0.2, 10.0.0.1"),
        (&["192.0.2.1:4711"], "192.0.2.1:4711", "192.0.2.1:4711, 10.0.0.1"),
        (&["2001:db8::1"], "[2001:db8::1]:0", "2001:db8::1, 10.0.0.1"),
        (&["[2001:db8::1]:80"], "[2001:db8::1]:80", "[2001:db8::1]:80, 10.0.0.1"),
        (&["::ffff:192.0.2.1"], "192.0.2.1:0", "::ffff:192.0.2.1, 10.0.0.1"),
        (&[""], "10.0.0.1:9", "10.0.0.1"),
        (&[], "10.0.0.1:9", "10.0.0.1"),
    ] {
        let lines: Vec<_> = said.iter().map(|said| ("x-forwarded-for", *said)).collect();
        let seen = through(&forwarding(Family::XForwardedFor), &peer("10.0.0.1"), &headers(&lines)).unwrap();
        assert_eq!(
            (seen.address.to_string().as_str(), seen.forwarded_for.to_str().unwrap()),
            (client, chain),
            "{said:?}"
        );
    }
}

#[test]
fn only_a_trusted_proxy_and_only_the_named_family_is_believed() {
    let both = headers(&[
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=192.0.2.2;proto=https;host=b.example"),
    ]);
    assert!(through(&forwarding(Family::XForwardedFor), &peer("192.0.2.9"), &both).is_none());
    assert!(through(&Forwarding::default(), &peer("10.0.0.1"), &both).is_none());
    let seen = through(&forwarding(Family::XForwardedFor), &peer("10.0.0.1"), &both).unwrap();
    assert_eq!((seen.address.to_string().as_str(), seen.https), ("192.0.2.1:0", false));
    let seen = through(&forwarding(Family::Forwarded), &peer("10.0.0.1"), &both).unwrap();
    assert_eq!((seen.address.to_string().as_str(), seen.https), ("192.0.2.2:0", true));
    let proxied = seen.proxied.unwrap();
    assert_eq!(proxied.host.as_ref().unwrap(), "b.example");
}

#[test]
fn forwarded_is_read_and_appended_to() {
    for (said, client, sent) in [
        ("for=192.0.2.1", "192.0.2.1:0", "for=192.0.2.1, for=10.0.0.1;host=\"a:8\";proto=https"),
        (
            "For=\"[2001:db8::1]:4711\"",
            "[2001:db8::1]:4711",
            "For=\"[2001:db8::1]:4711\", for=10.0.0.1;host=\"a:8\";proto=https",
        ),
        (
            "for=6.6.6.6, for=192.0.2.1;by=\"a,b;c\" , for=10.0.0.2",
            "192.0.2.1:0",
            "for=6.6.6.6, for=192.0.2.1;by=\"a,b;c\" , for=10.0.0.2, for=10.0.0.1;host=\"a:8\";proto=https",
        ),
        ("for=_hidden", "10.0.0.1:9", "for=_hidden, for=10.0.0.1;host=\"a:8\";proto=https"),
        ("for=\"192.0.2.1", "10.0.0.1:9", "for=\"192.0.2.1, for=10.0.0.1;host=\"a:8\";proto=https"),
    ] {
        let said_headers = headers(&[("forwarded", said)]);
        let seen = through(&forwarding(Family::Forwarded), &peer("10.0.0.1"), &said_headers).unwrap();
        assert_eq!(seen.address.to_string(), client, "{said}");
        assert_eq!(element(&seen, Some(&HeaderValue::from_static("a:8"))), sent, "{said}");
    }
    let said = headers(&[("x-forwarded-for", "2001:db8::1, 192.0.2.1:80, x")]);
    let seen = through(&forwarding(Family::Both), &peer("fd00::1"), &said).unwrap();
    assert_eq!(
        element(&seen, None),
        "for=\"[2001:db8::1]\", for=\"192.0.2.1:80\", for=unknown, for=\"[fd00::1]\";proto=https"
    );
    assert_eq!(element(&peer("192.0.2.1"), None), "for=192.0.2.1;proto=https");
}

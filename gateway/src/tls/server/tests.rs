//! Which certificate a name gets, and what makes a configuration unusable.

use std::fs;

use super::*;

fn write(directory: &Path, file: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(directory.join(format!("{file}.pem")), made.cert.pem()).unwrap();
    fs::write(directory.join(format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
}

fn document(yaml: &str) -> TlsDocument {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn a_name_gets_its_own_certificate_and_every_other_the_first() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "first", &["first.example"]);
    write(directory.path(), "whole", &["A.example", "b.example"]);
    write(directory.path(), "wild", &["*.example", "*.b.example"]);
    let pair = |file: &str| format!("{{certificate: {file}.pem, key: {file}.key}}");
    let document =
        document(&format!("certificates: [{}, {}, {}]", pair("first"), pair("whole"), pair("wild")));
    let by_name = ByName::read(&document, directory.path()).unwrap();
    for (asked, first_name) in [
        ("a.example", Some("a.example")),
        ("B.EXAMPLE.", Some("a.example")),
        ("c.example", Some("*.example")),
        ("x.b.example", Some("*.example")),
        ("x.c.example", None),
        ("example", None),
    ] {
        let found = by_name.named(asked).map(|keys| dns_names(keys[0].end_entity_cert().unwrap())[0].clone());
        assert_eq!(found.as_deref(), first_name, "{asked}");
    }
    assert_eq!(dns_names(by_name.first.end_entity_cert().unwrap()), ["first.example"]);
}

#[test]
fn what_cannot_be_used_says_which_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a", &["a.example"]);
    write(directory.path(), "b", &["b.example"]);
    fs::write(directory.path().join("empty.pem"), "").unwrap();
    for (yaml, said) in [
        ("certificates: [{certificate: a.pem, key: b.key}]", "b.key"),
        ("certificates: [{certificate: none.pem, key: a.key}]", "none.pem"),
        ("certificates: [{certificate: empty.pem, key: a.key}]", "empty.pem: no certificate"),
        ("certificates: [{certificate: a.pem, key: a.pem}]", "a.pem"),
        ("certificates: [{certificate: a.pem, key: a.key, ocsp: none.der}]", "none.der"),
        ("{certificates: [{certificate: a.pem, key: a.key}], client_ca: empty.pem}", "empty.pem"),
    ] {
        let refused = ServerTls::compile(&document(yaml), directory.path(), true, None).unwrap_err();
        assert!(refused.to_string().contains(said), "{yaml}: {refused}");
    }
}

#[test]
fn tickets_outlive_a_reload_only_with_the_same_clients() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a", &["a.example"]);
    write(directory.path(), "b", &["b.example"]);
    let compile = |yaml: &str, previous: Option<&ServerTls>| {
        ServerTls::compile(&document(yaml), directory.path(), true, previous).unwrap()
    };
    let open = "certificates: [{certificate: a.pem, key: a.key}]";
    let before = compile(open, None);
    let ticket = before.tickets.encrypt(b"session").unwrap();
    let rotated = compile("certificates: [{certificate: b.pem, key: b.key}]", Some(&before));
    assert_eq!(rotated.tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    for closed in ["client_ca: a.pem", "client_ca: b.pem", "{client_ca: a.pem, client: optional}"] {
        let settings = closed.trim_matches(['{', '}']);
        let yaml = format!("{{certificates: [{{certificate: a.pem, key: a.key}}], {settings}}}");
        let after = compile(&yaml, Some(&before));
        assert_eq!(after.tickets.decrypt(&ticket), None, "{closed}");
    }
}

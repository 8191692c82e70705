//! Files that are right, and what is said of those that are not.

use super::*;

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let invalid = File::parse(text).expect_err(text);
    let said: Vec<String> = invalid.0.iter().map(Fault::to_string).collect();
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "said {said:?}, expected {expected:?}");
    }
}

#[test]
fn faults_name_line_field_and_rule() {
    refused("mode = \"fast\"\n", &["1: mode: unknown variant `fast`"]);
    refused("interfaces = [\"eth0\"]\ncolour = 1\n", &["2: colour: unknown field `colour`"]);
    refused("\ninterfaces = [\"eth0\"\n", &["2: unclosed array"]);
    refused("interfaces = [\"eth0\", \"eth0\"]\n", &["1: interfaces[1]: is given twice"]);
    refused("[limits]\nslots = 4\n", &["2: limits.slots: must be 1024 to"]);
    refused("[api]\nlisten_tcp = \"1.2.3.4:1\"\n", &["2: api.listen_tcp: needs token_file"]);
    refused(
        "[[services]]\nname = \"a\"\naddress = \"192.0.2.1\"\nport = 80\nbackend = []\n",
        &["5: services[0].backend: unknown field `backend`"],
    );
}

#[test]
fn faults_of_packets_name_their_own_line() {
    refused("[tunnel]\nsource_ipv4 = \"fd00::/64\"\n", &["2: tunnel.source_ipv4: must be IPv4"]);
    refused("[tunnel]\nsource_ipv4 = \"172.16.0.1/16\"\n", &["2: tunnel.source_ipv4: has bits beyond"]);
    refused("[tunnel]\nsource_ipv6 = \"2001::/8\"\n", &["2: tunnel.source_ipv6: must have a prefix of 16"]);
    refused("[tunnel]\nsource_ipv6 = \"fe80::/64\"\n", &["2: tunnel.source_ipv6: must not be link-local"]);
    refused("[tunnel]\nsource_ipv4 = \"x\"\n", &["2: tunnel.source_ipv4: must be an IP address"]);
    refused("[tunnel]\ngue_port = 0\n", &["2: tunnel.gue_port: must be 1 to 65535"]);
    refused("icmp_errors_per_second = 10_000_001\n", &["1: icmp_errors_per_second: must be 0 to"]);
    refused("[full_nat]\nports = \"80\"\n", &["2: full_nat.ports: must be the lowest and the highest"]);
    refused(
        "[full_nat]\naddresses = [\"10.0.0.9\", \"10.0.0.9\"]\n",
        &["2: full_nat.addresses[1]: is given twice"],
    );
    refused(
        "[full_nat]\naddresses = [\"127.0.0.1\"]\n",
        &["2: full_nat.addresses[0]: must be a unicast address"],
    );
    let many: Vec<_> = (0..17).map(|host| format!("\"10.0.0.{}\"", host + 1)).collect();
    refused(
        &format!("[full_nat]\naddresses = [{}]\n", many.join(", ")),
        &["2: full_nat.addresses[16]: is one too many: at most 16 of each family"],
    );
    let far = "[[services]]\nname = \"a\"\naddress = \"10.0.0.1\"\nport = 80\nmode = \"full-nat\"\n";
    refused(far, &["5: services[0].mode: full-nat sends from IPv4 addresses of the balancer: set full_nat"]);
    let text = format!("[full_nat]\naddresses = [\"fd00::9\", \"10.0.0.9\"]\n{far}");
    let file = File::parse(&text).expect("it is right");
    let addresses: Vec<_> = file.packets.full_nat.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.9", "fd00::9"], "IPv4 first");
    let backend = "[[services.backends]]\naddress = \"10.0.0.9\"\n";
    refused(
        &format!("{text}{backend}"),
        &["3: services[0].backends: 10.0.0.9:80: 10.0.0.9 is one of full_nat.addresses"],
    );
}

#[test]
fn services_have_the_fields_of_the_api() {
    let text = "[[services]]\nname = \"h3\"\naddress = \"203.0.113.0/24\"\nports = \"any\"\n\
                protocol = \"udp\"\nmode = \"dsr-gue\"\nfragments = \"pass\"\n\
                quic = { scheme = \"katran-v2\" }\n\
                [[services.backends]]\naddress = \"fd00::1\"\nserver_id = 255\n";
    let file = File::parse(text).expect("it is right");
    let backends: Vec<_> = file.services[0].backends.values().map(|backend| backend.server_id).collect();
    assert_eq!(backends, [Some(255)]);
    refused(&text.replace("255", "-1"), &["11: services[0].backends[0].server_id: invalid value"]);
    refused(&text.replace("\"any\"", "\"80\""), &["4: services[0].ports: must be the lowest"]);
}

#[test]
fn faults_of_services_name_their_own_line() {
    let shop = "[[services]]\nname = \"shop\"\naddress = \"192.0.2.1\"\nport = 80\n";
    refused(
        &format!("{shop}\n[[services]]\nname = \"B\"\naddress = \"192.0.2.2\"\nport = 80\n"),
        &["7: services[1].name: must be 1 to 63"],
    );
    refused(&format!("{shop}\n{shop}"), &["7: services[1].name: is the name of another service"]);
    refused(
        &format!("{shop}[[services.backends]]\naddress = \"10.0.0.1\"\nweight = 2000\n"),
        &["7: services[0].backends[0].weight: must be 0 to 1000"],
    );
    let other = shop.replace("shop", "other");
    refused(&format!("{shop}{other}"), &["7: services[1]: service "]);
}

#[test]
fn the_example_is_right() {
    let file = File::parse(include_str!("../../../../examples/lb-control.toml")).expect("it is right");
    assert_eq!(file.services.len(), 1);
    assert_eq!(file.services[0].backends.len(), 2);
}

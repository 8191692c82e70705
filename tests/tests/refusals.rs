//! What is refused, with which words, and that nothing changes by it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tests::{
    control::{Control, at, backend_body, service},
    controller::{Controller, command},
    held::Held,
    process::Process,
    requires::requires,
    server::{PORT, Server},
    topology::Topology,
    xdp::{PassProgram, pin_map},
};

const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;

#[test]
fn bad_orders_name_field_and_rule_and_change_nothing() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let _server = Server::start(&topology, 0)?;
    let controller = Controller::start(&topology)?;
    let control = controller.control();
    let backends = at([topology.server_address(0)], PORT);
    control.create(&service("web", WEB, "nat", &backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 10, LIMIT)?;
    let before = ordered(control)?;

    let good = service("other", 81, "nat", &backends);
    let with = |field: &str, value: Value| {
        let mut order = good.clone();
        order[field] = value;
        order.to_string()
    };
    let nowhere = backend_body(at(["192.168.77.1".parse()?], PORT)[0], 1);
    let (services, web) = ("/v1/services", "/v1/services/web");
    // (method, path, body, status, field, what the rule says)
    let orders = [
        (Method::POST, services, "{\"name\": ".to_string(), 400, "", "line 1"),
        (Method::POST, services, with("adress", json!("10.10.0.100")), 422, "adress", "is no field"),
        (Method::POST, services, with("port", json!(0)), 422, "port", ""),
        (Method::POST, services, with("mode", json!("bridge")), 422, "mode", "nat"),
        (Method::POST, services, with("port", json!(WEB)), 409, "address", "service web"),
        (Method::POST, services, with("name", json!("web")), 409, "name", "taken"),
        (Method::POST, services, with("backends", json!([nowhere])), 422, "backends[0].address", "route"),
        (Method::PATCH, web, json!({ "flow_idle_seconds": 0 }).to_string(), 422, "flow_idle_seconds", "1"),
        (Method::DELETE, "/v1/services/nobody", String::new(), 404, "", "nobody"),
    ];
    for (method, path, body, status, field, rule) in orders {
        let reply = control.send(method.clone(), path, body.clone())?;
        let what = format!("{method} {path} {body}: {} {}", reply.status, reply.body);
        assert_eq!(reply.status, status, "{what}");
        assert!(reply.body["type"].as_str().is_some_and(|kind| kind.starts_with("urn:")), "{what}");
        let error = &reply.body["errors"][0];
        assert_eq!(error["field"].as_str().unwrap_or_default(), field, "{what}");
        let words = error["rule"].as_str().or(reply.body["detail"].as_str()).unwrap_or_default();
        assert!(words.contains(rule), "{what}");
    }
    assert_eq!(ordered(control)?, before);
    held.ask_and_expect_all(10)
}

#[test]
fn lbctl_says_what_is_wrong_and_fails() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let controller = Controller::start(&topology)?;
    let control = controller.control();
    control.create(&service("web", WEB, "nat", &at([topology.server_address(0)], PORT)))?;
    let refused = control.lbctl(&["backend", "drain", "web", "10.20.0.99:8080"])?;
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains("10.20.0.99:8080"), "{words}");
    let shown = control.lbctl_ok(&["service", "list"])?;
    assert!(shown.contains("web"), "{shown}");
    Ok(())
}

/// An interface that runs somebody else's program keeps it, and no other interface is touched.
#[test]
fn an_interface_with_another_program_is_refused() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let _foreign = PassProgram::attach(&topology.balancer, "b0")?;
    let programs_before = programs(&topology)?;
    let log = topology.directory().join("refused.log");
    let mut process = Process::start(command(&topology)?, "lb-control", &log)?;
    let status = process.wait(LIMIT)?;
    let words = process.log_tail();
    assert!(!status.success(), "{words}");
    assert!(words.contains("b0") && words.to_lowercase().contains("xdp"), "{words}");
    assert_eq!(programs(&topology)?, programs_before, "{words}");
    Ok(())
}

/// Two controllers would write the same tables: the second one ends, the first one does not notice.
#[test]
fn a_second_controller_is_refused() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let _server = Server::start(&topology, 0)?;
    let controller = Controller::start(&topology)?;
    controller.control().create(&service("web", WEB, "nat", &at([topology.server_address(0)], PORT)))?;
    let log = topology.directory().join("second.log");
    let mut second = Process::start(command(&topology)?, "lb-control", &log)?;
    let status = second.wait(LIMIT)?;
    assert!(!status.success() && second.log_tail().contains("error"), "{}", second.log_tail());
    assert!(controller.control().lbctl_ok(&["service", "list"])?.contains("web"));
    Held::open(&topology.client, topology.vip(WEB), 5, LIMIT)?.ask_and_expect_all(5)
}

/// Pins of another layout are neither used nor replaced, and what runs goes on.
#[test]
fn pins_of_another_layout_are_refused() -> Result<()> {
    requires();
    let topology = Topology::routed(1)?;
    let _server = Server::start(&topology, 0)?;
    let mut controller = Controller::start(&topology)?;
    controller.control().create(&service("web", WEB, "nat", &at([topology.server_address(0)], PORT)))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 10, LIMIT)?;
    controller.kill()?;

    let pin = find(&topology.pins(), "SERVICES")?.context("a pin named SERVICES")?;
    fs::remove_file(&pin)?;
    pin_map(&pin)?;
    controller.begin_again()?;
    let process = controller.process()?;
    let status = process.wait(LIMIT)?;
    let words = process.log_tail();
    assert!(!status.success(), "{words}");
    assert!(words.contains("SERVICES"), "{words}");
    assert!(pin.exists(), "the foreign pin is gone");
    held.ask_and_expect_all(10)
}

/// Generation and services as they were ordered, without counters, which go on.
fn ordered(control: &Control) -> Result<Value> {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.remove("status");
                fields.values_mut().for_each(strip);
            }
            Value::Array(elements) => elements.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut services = control.get("/v1/services")?;
    strip(&mut services);
    Ok(services)
}

/// Names of interfaces of the balancer that run an XDP program, with its number.
fn programs(topology: &Topology) -> Result<Vec<String>> {
    let output = topology.balancer.command("ip").args(["-d", "-o", "link"]).output()?;
    ensure!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| line.contains("prog/xdp"));
    Ok(lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let interface = words.nth(1).unwrap_or_default();
            let number = line.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next());
            format!("{interface} {}", number.unwrap_or_default())
        })
        .collect())
}

fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

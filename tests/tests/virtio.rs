//! A real card's driver: runs inside the virtual machine, whose two virtio cards reach each other, and
//! nowhere else. It brings its own runner, because only at run time it is known where it runs.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    control::{at, service},
    controller::Controller,
    held::Held,
    requires::requires,
    server::{PORT, Server},
    topology::Topology,
};

const NAME: &str = "virtio_driver_mode";
const LIMIT: Duration = Duration::from_secs(30);
const WEB: u16 = 80;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    let asked = filters.peek().is_none() || filters.any(|filter| NAME.contains(filter.as_str()));
    let in_machine = std::env::var_os("PORTCULLIS_VM").is_some_and(|value| value == "1");
    let (word, passed, failed, ignored) = match (asked, in_machine) {
        (false, _) => ("", 0, 0, 0),
        (true, false) => ("ignored, only inside the virtual machine", 0, 0, 1),
        (true, true) => match std::panic::catch_unwind(virtio_driver_mode) {
            Ok(Ok(())) => ("ok", 1, 0, 0),
            Ok(Err(error)) => {
                eprintln!("{error:?}");
                ("FAILED", 0, 1, 0)
            }
            Err(_) => ("FAILED", 0, 1, 0),
        },
    };
    if !word.is_empty() {
        println!("test {NAME} ... {word}");
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let filtered = u8::from(!asked);
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::from(failed)
}

/// The program runs in the card's driver, and packets go from the card to a veth and back.
fn virtio_driver_mode() -> Result<()> {
    requires();
    let topology = Topology::routed_over_cards(2, "eth0", "eth1")?;
    let _servers: Vec<Server> = (0..2).map(|index| Server::start(&topology, index)).collect::<Result<_>>()?;
    let controller = Controller::start(&topology)?;
    let control = controller.control();
    let status = control.get("/v1/status")?;
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        ensure!(interface["mode"] == "driver", "not in the driver: {status}");
    }
    let backends = at((0..2).map(|index| topology.server_address(index)), PORT);
    control.create(&service("web", WEB, "nat", &backends))?;
    let held = Held::open(&topology.client, topology.vip(WEB), 50, LIMIT)?;
    ensure!(held.servers().len() == 2, "{:?}", held.servers());
    held.ask_and_expect_all(50)
}

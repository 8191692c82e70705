//! `lbctl`, the client of the controller's REST API.

fn main() -> std::process::ExitCode {
    lb_control::lbctl::main()
}

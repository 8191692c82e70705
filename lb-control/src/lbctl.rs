//! `lbctl`: the REST API's verbs for people and scripts.
//!
//! A command becomes one request (`command`), which goes over the Unix socket or TCP (`client`); the
//! answer is shown as JSON or as a table (`show`). Nothing is validated here: the controller does. `decap` alone is
//! for hosts without a controller.

mod body;
mod cli;
mod client;
mod command;
mod decap;
mod drain;
mod show;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;

use self::{
    cli::{Cli, Task},
    client::{Client, Failure},
};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut screen = Screen { out: io::stdout(), progress: io::stderr(), live: io::stderr().is_terminal() };
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(cli, &mut screen)),
        Err(error) => Err(Failure::Local(error.to_string())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Where results and progress go.
struct Screen<O, P> {
    out: O,
    progress: P,
    /// Whether progress may overwrite itself.
    live: bool,
}

async fn run(cli: Cli, screen: &mut Screen<impl Write, impl Write>) -> Result<(), Failure> {
    let (answer, show) = match &cli.task {
        Task::Order(command) => {
            let client = Client::new(&cli.connection)?;
            let order = command::order(command)?;
            let answer = client.send(&order.request).await?;
            let answer = match &order.follow {
                Some(path) => drain::follow(&client, path, answer, screen).await?,
                None => answer,
            };
            (answer, order.show)
        }
        Task::Decap(command) => decap::run(command)?,
    };
    let text = if cli.json { format!("{answer:#}\n") } else { show(&answer) };
    match screen.out.write_all(text.as_bytes()).and_then(|()| screen.out.flush()) {
        // `lbctl … | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::Local(error.to_string())),
    }
}

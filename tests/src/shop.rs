//! The story of the balancer alone, before a shop: real requests through the virtual address while servers are added, drained,
//! killed and brought back, with every request counted.
//!
//! | module | what |
//! |---|---|
//! | `stage` | namespaces, controller, servers |
//! | `acts` | what happens, in order, and what each act promises |

mod acts;
mod stage;

use std::io::IsTerminal as _;

use anyhow::Result;

use crate::{
    interrupt,
    requires::prepare,
    screen::{REFRESH, Screen},
    server::name,
};
use stage::{SERVERS, Stage};

/// Plays the story. With `check`, or without a terminal, it ends when it is told, otherwise it stays up
/// until Ctrl-C. True: every promise was kept.
pub fn play(check: bool) -> Result<bool> {
    prepare()?;
    interrupt::listen();
    let stays = std::io::stdout().is_terminal() && !check;
    let mut screen = Screen::new((0..SERVERS).map(name).collect());
    screen.say("Setting up clients, a balancer and a shop of three servers in network namespaces …");
    let mut stage = Stage::set()?;
    if let Err(error) = acts::play(&mut stage, &mut screen) {
        screen.table();
        return Err(error.context(format!("the controller's log ends with\n{}\n", stage.log_tail())));
    }
    let kept = screen.verdict();
    if stays {
        screen.say(&stage.invitation()?);
        while interrupt::check().is_ok() {
            screen.live(&stage.load.tally());
            std::thread::sleep(REFRESH);
        }
        screen.say("Cleaning up.");
    }
    Ok(kept)
}

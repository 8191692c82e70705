//! The stories of balancer and gateway together: a bank or a shop, with the balancer before the gateways, after
//! one, or both; real requests while gateways and services are added, drained, killed and brought back, with
//! every request counted.
//!
//! | module | what |
//! |---|---|
//! | [`cast`] | topologies, stories, services, and the files that configure them |
//! | `stage` | namespaces, daemons, instances, load |
//! | `acts` | what happens, in order, and what each act promises |
//! | `show` | a running act: what it waits for and what the audience sees |
//! | `bank`, `shop` | what customers ask for and must get |
//! | `judge` | which failures an act may have |

mod acts;
mod bank;
pub mod cast;
mod judge;
mod shop;
mod show;
mod stage;

use std::io::IsTerminal as _;

use anyhow::Result;

use crate::{
    interrupt,
    requires::prepare,
    screen::{REFRESH, Screen},
};
use cast::{Shape, Story};
use stage::Stage;

/// Plays a story in a topology. With `check`, or without a terminal, it ends when it is told, otherwise it
/// stays up until Ctrl-C. True: every promise was kept.
pub fn play(shape: Shape, story: Story, check: bool) -> Result<bool> {
    prepare()?;
    interrupt::listen();
    let stays = std::io::stdout().is_terminal() && !check;
    let mut screen = Screen::new(cast::columns(shape, story));
    screen.say(&format!("Setting up in network namespaces: {}", scene(shape)));
    let mut stage = Stage::set(shape, story)?;
    if let Err(error) = acts::play(&mut stage, &mut screen) {
        screen.table();
        return Err(error.context(format!("the daemons' logs end with\n{}\n", stage.log_tails())));
    }
    let kept = screen.verdict();
    if stays {
        stage.resume()?;
        screen.say(&stage.invitation()?);
        while interrupt::check().is_ok() {
            screen.live(&stage.tally());
            std::thread::sleep(REFRESH);
        }
        screen.say("Cleaning up.");
    }
    Ok(kept)
}

fn scene(shape: Shape) -> &'static str {
    match shape {
        Shape::Before => "clients → balancer → three gateways → services",
        Shape::After => "clients → one gateway → balancer → services",
        Shape::Hybrid => "clients → balancer → three gateways → balancer → services",
    }
}

//! The story of the shop: real requests through the virtual address while servers are added, drained,
//! killed and brought back, with every request counted.
//!
//! | module | what |
//! |---|---|
//! | `stage` | namespaces, controller, servers |
//! | `acts` | what happens, in order, and what each act promises |
//! | `screen` | progress while it happens, and the table at the end |

mod acts;
mod screen;
mod stage;

use std::{
    io::IsTerminal as _,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};

use crate::requires::prepare;
use screen::Screen;
use stage::Stage;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Plays the story. With `check`, or without a terminal, it ends when it is told, otherwise it stays up
/// until Ctrl-C. True: every promise was kept.
pub fn play(check: bool) -> Result<bool> {
    prepare()?;
    listen_for_interrupts();
    let stays = std::io::stdout().is_terminal() && !check;
    let mut screen = Screen::new();
    screen.say("Setting up clients, a balancer and a shop of three servers in network namespaces …");
    let mut stage = Stage::set()?;
    if let Err(error) = acts::play(&mut stage, &mut screen) {
        screen.table();
        return Err(error.context(format!("the controller's log ends with\n{}\n", stage.log_tail())));
    }
    let kept = screen.table();
    if stays {
        screen.say(&stage.invitation()?);
        while check_interrupt().is_ok() {
            screen.live(&stage.load.tally());
            std::thread::sleep(screen::REFRESH);
        }
        screen.say("Cleaning up.");
    }
    Ok(kept)
}

/// Ctrl-C and SIGTERM end the story in good order, namespaces and pins removed.
fn listen_for_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

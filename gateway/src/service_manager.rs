//! What a service manager is told, where one asks for it (sd_notify(3), `Type=notify` and `Type=notify-reload`).

use sd_notify::NotifyState;

/// This process serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A new configuration is read; [`ready`] follows.
pub fn reloading() {
    // It is matched with the signal by its time.
    let Ok(time) = NotifyState::monotonic_usec_now() else { return };
    tell(&[NotifyState::Reloading, time]);
}

/// This process stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is the service from now on.
pub fn handed_over(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

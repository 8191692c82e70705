//! Asking instances whether they are well: `GET path` on a connection of its own, 2xx is well. Runs on the
//! background runtime; a checker ends by itself when no configuration knows its instance any more.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, header};
use tokio::time::{sleep, timeout};

use super::{Endpoint, HealthSettings, Outgoing, Upstream, connect::Connector, endpoint::Health, pool};

/// Starts a checker for every instance that has none. Called within the background runtime.
pub fn watch(upstream: &Arc<Upstream>) {
    let Some(settings) = &upstream.health else { return };
    let host = upstream.host.as_ref().and_then(|host| host.to_str().ok()).map(str::to_owned);
    for (index, endpoint) in upstream.endpoints.iter().enumerate() {
        if endpoint.checked.swap(true, Relaxed) {
            continue;
        }
        // The first questions at once, but not all in the same moment.
        let delay = settings.interval / upstream.endpoints.len() as u32 * index as u32 / 4;
        let connector = upstream.connector.clone();
        tokio::spawn(check(Arc::downgrade(endpoint), connector, settings.clone(), host.clone(), delay));
    }
}

async fn check(
    endpoint: Weak<Endpoint>,
    connector: Arc<Connector>,
    settings: HealthSettings,
    host: Option<String>,
    delay: Duration,
) {
    sleep(delay).await;
    let mut streak = Streak::default();
    loop {
        let Some(endpoint) = endpoint.upgrade() else { return };
        let asked = ask(&endpoint, &connector, &settings, host.as_deref());
        let well = matches!(timeout(settings.timeout, asked).await, Ok(true));
        if let Some(health) = streak.judge(endpoint.health(), well, &settings) {
            tracing::info!(endpoint = %endpoint.address, ?health, "health");
            endpoint.set_health(health);
        }
        drop(endpoint);
        sleep(settings.interval).await;
    }
}

async fn ask(
    endpoint: &Endpoint,
    connector: &Connector,
    settings: &HealthSettings,
    host: Option<&str>,
) -> bool {
    let address = endpoint.address.to_string();
    let request = Request::get(&settings.path)
        .header(header::HOST, host.unwrap_or(&address))
        .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .body(Outgoing::Empty);
    let Ok(request) = request else { return false };
    pool::ask(connector, endpoint, request).await.is_ok_and(|answer| answer.status().is_success())
}

/// Answers of one kind in a row.
#[derive(Debug, Default)]
struct Streak {
    well: u32,
    unwell: u32,
}

impl Streak {
    /// The new state after one more answer, if it changes. The first good answer suffices where nothing was known.
    fn judge(&mut self, health: Health, well: bool, settings: &HealthSettings) -> Option<Health> {
        match well {
            true => (self.well, self.unwell) = (self.well.saturating_add(1), 0),
            false => (self.well, self.unwell) = (0, self.unwell.saturating_add(1)),
        }
        match health {
            Health::Unknown if well => Some(Health::Up),
            Health::Down if self.well >= settings.rise => Some(Health::Up),
            Health::Unknown | Health::Up if self.unwell >= settings.fall => Some(Health::Down),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_a_row_decide() {
        let settings = HealthSettings {
            path: "/".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        };
        let (mut streak, mut health) = (Streak::default(), Health::Unknown);
        for (well, expected) in [
            (true, Health::Up),
            (false, Health::Up),
            (false, Health::Up),
            (true, Health::Up),
            (false, Health::Up),
            (false, Health::Up),
            (false, Health::Down),
            (true, Health::Down),
            (false, Health::Down),
            (true, Health::Down),
            (true, Health::Up),
        ] {
            health = streak.judge(health, well, &settings).unwrap_or(health);
            assert_eq!(health, expected);
        }
    }
}

//! Response times on their way from the checks to the engine, for services whose replies go past the balancer.
//!
//! The way is bounded: what does not fit is dropped and counted, since the next check brings a newer one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_common::Port;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use crate::{
    engine::ResponseTime,
    model::{Algorithm, Service, address},
};

/// So many wait at most, and are handed over together.
const WAITING_MAX: usize = 1_024;

/// Where checks leave their times.
#[derive(Clone)]
pub struct Samples {
    sender: Sender<ResponseTime>,
    dropped: Arc<AtomicU64>,
}

impl Samples {
    /// An end to put in, and one to take out.
    pub fn channel() -> (Self, Receiver<ResponseTime>) {
        let (sender, receiver) = channel(WAITING_MAX);
        (Self { sender, dropped: Arc::default() }, receiver)
    }

    /// Takes the time that a check took. Never waits.
    pub fn put(&self, service: &Service, backend: SocketAddr, took: Duration) {
        if !is_wanted(service) {
            return;
        }
        let time = ResponseTime {
            service: address::service_key(service),
            address: address::to_map(backend.ip()),
            port: Port::new(backend.port()),
            micros: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
        };
        if let Err(TrySendError::Full(_)) = self.sender.try_send(time) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many did not fit.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Whether checks are all that tells of a service's response times.
fn is_wanted(service: &Service) -> bool {
    service.algorithm == Algorithm::LeastResponseTime && service.mode.keeps_destination()
}

/// Hands times over as they come, as many as there are, until one end is gone or `note` answers `false`.
pub async fn deliver(
    mut times: Receiver<ResponseTime>,
    mut note: impl AsyncFnMut(Vec<ResponseTime>) -> bool,
) {
    let mut batch = Vec::new();
    while times.recv_many(&mut batch, WAITING_MAX).await > 0 {
        if !note(std::mem::take(&mut batch)).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(mode: &str, algorithm: &str) -> Service {
        let spec = serde_json::json!({
            "name": "shop", "address": "192.0.2.1", "port": 80, "mode": mode, "algorithm": algorithm,
            "backends": [{ "address": "10.0.0.1" }],
        });
        Service::new(&serde_json::from_value(spec).expect("it is a service")).expect("it keeps the rules")
    }

    #[tokio::test]
    async fn what_is_wanted_comes_through_up_to_the_bound() {
        let (samples, times) = Samples::channel();
        let backend: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        for (mode, algorithm) in [("nat", "least-response-time"), ("dsr-ipip", "least-connections")] {
            samples.put(&service(mode, algorithm), backend, Duration::from_millis(1));
        }
        let wanted = service("dsr-l2", "least-response-time");
        for micros in 0..WAITING_MAX as u64 + 5 {
            samples.put(&wanted, backend, Duration::from_micros(micros));
        }
        assert_eq!(samples.dropped(), 5);
        drop(samples);
        let mut seen = Vec::new();
        deliver(times, async |batch| {
            seen.extend(batch);
            true
        })
        .await;
        let micros: Vec<u32> = seen.iter().map(|time| time.micros).collect();
        assert_eq!(micros, (0..WAITING_MAX as u32).collect::<Vec<_>>());
        assert_eq!(seen[0].service, address::service_key(&wanted));
    }
}

//! Response times that are measured here, by health checks: of services whose replies go past the balancer.

use lb_common::{Address, Algorithm, Load, Port, ServiceKey};

use super::Engine;
use crate::datapath::Datapath;

/// How long a backend took to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseTime {
    /// Of the service.
    pub service: ServiceKey,
    /// Of the backend.
    pub address: Address,
    /// Of the backend.
    pub port: Port,
    /// Microseconds.
    pub micros: u32,
}

impl<D: Datapath> Engine<D> {
    /// Notes response times; `now_micros` of the monotonic clock. Those of services that do not go by them, or whose
    /// replies are timed as they pass, are left aside. Returns how many it noted.
    pub fn note_response_times(&mut self, times: &[ResponseTime], now_micros: u64) -> usize {
        let mut noted = 0;
        for time in times {
            let Some(service) = self.installed.services.get(&time.service) else { continue };
            let wanted = service.entry.algorithm() == Algorithm::LeastResponseTime
                && !service.entry.settings().measures();
            let Some(&id) = service.backends.get(&(time.address, time.port)).filter(|_| wanted) else {
                continue;
            };
            let load: Load = self.datapath.backend_load(id);
            self.datapath.put_response(id, load.after_sample(time.micros, now_micros));
            noted += 1;
        }
        noted
    }
}

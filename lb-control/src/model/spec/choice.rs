//! How a service chooses backends and what it remembers for that: the defaults that follow from each other, and the
//! combinations that make no sense.

use super::{AlgorithmName, Errors, ServiceSpec, TrackingName};
use crate::model::{Algorithm, FragmentPolicy, Mode, Network, Protocol, Tracking};

/// A day, like the longest idle timeout.
const AFFINITY_SECONDS_MAX: u32 = 86_400;
const SLOW_START_SECONDS_MAX: u32 = 3_600;
/// As many as one service may have backends, and more.
const MIN_ACTIVE_BACKENDS_MAX: u32 = 100_000;

impl ServiceSpec {
    /// What a service tracks that does not say it.
    pub(super) fn tracking_default(&self) -> TrackingName {
        if self.asks_for_every_flow().is_some() { TrackingName::EveryFlow } else { TrackingName::OnChange }
    }

    /// What cannot do without a memory of every flow, as an error names it.
    fn asks_for_every_flow(&self) -> Option<String> {
        let algorithm: Algorithm = self.algorithm.into();
        if !algorithm.is_hash() {
            return Some(format!("algorithm {}, whose choice no packet shows", self.algorithm.text()));
        }
        if self.mode.is_full_nat() && algorithm != Algorithm::Maglev {
            return Some(format!("algorithm {} in mode full-nat", self.algorithm.text()));
        }
        if self.affinity_seconds > 0 {
            return Some("affinity_seconds, which remembers clients".into());
        }
        let capped = self.backends.iter().any(|backend| backend.max_connections > 0);
        capped.then(|| "max_connections, which counts connections".into())
    }
}

impl super::ModeName {
    fn is_full_nat(self) -> bool {
        Mode::from(self) == Mode::FullNat
    }
}

impl Errors {
    /// What is remembered; checks it against what asks for more.
    pub(super) fn tracking(&mut self, spec: &ServiceSpec) -> Tracking {
        let reason = spec.asks_for_every_flow();
        if spec.connectionless {
            if Protocol::from(spec.protocol) != Protocol::Udp {
                self.add("connectionless", "is for udp: a tcp flow is a connection");
            }
            if spec.tracking.is_some() {
                self.add("tracking", "must be left out beside connectionless, which remembers nothing");
            }
            if let Some(reason) = reason {
                self.add("connectionless", format!("must not stand beside {reason}"));
            }
            return Tracking::Connectionless;
        }
        if let (Some(TrackingName::OnChange), Some(reason)) = (spec.tracking, reason) {
            self.add("tracking", format!("must be every-flow for {reason}"));
        }
        spec.tracking.unwrap_or_else(|| spec.tracking_default()).into()
    }

    /// Checks the other fields, and what cannot stand beside each other.
    pub(super) fn choice(&mut self, spec: &ServiceSpec) {
        self.range("affinity_seconds", spec.affinity_seconds, 0..=AFFINITY_SECONDS_MAX);
        self.range("slow_start_seconds", spec.slow_start_seconds, 0..=SLOW_START_SECONDS_MAX);
        self.range("panic_threshold_percent", spec.panic_threshold_percent.into(), 0..=100);
        self.range("min_active_backends", spec.min_active_backends, 1..=MIN_ACTIVE_BACKENDS_MAX);
        self.client_prefix(spec);
        let hashes_source = spec.algorithm == AlgorithmName::SourceHash;
        let named = [
            ("algorithm", spec.algorithm != AlgorithmName::Maglev),
            ("affinity_seconds", spec.affinity_seconds > 0),
            ("tracking", spec.tracking == Some(TrackingName::EveryFlow)),
        ];
        if FragmentPolicy::from(spec.fragments) == FragmentPolicy::ByAddress {
            for (field, _) in named.iter().filter(|(_, given)| *given) {
                let rule = "must be left out beside fragments by-address, where the addresses alone decide";
                self.add(*field, rule);
            }
        }
        if spec.quic.is_some() {
            for (field, given) in [("algorithm", hashes_source), named[1]] {
                if given {
                    self.add(field, "must be left out beside quic, where connection ids name the backend");
                }
            }
        }
    }

    fn client_prefix(&mut self, spec: &ServiceSpec) {
        let Some(bits) = spec.client_prefix else { return };
        let most = Network::bits_max(spec.address.address);
        self.range("client_prefix", bits.into(), 1..=most.into());
        if spec.algorithm != AlgorithmName::SourceHash && spec.affinity_seconds == 0 {
            self.add("client_prefix", "is for algorithm source-hash, or beside affinity_seconds");
        }
    }
}

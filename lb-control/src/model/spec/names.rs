//! Words of the JSON documents for the model's closed lists.

use serde::{Deserialize, Serialize};

use crate::model::{Algorithm, FragmentPolicy, Health, Mode, OnDeadline, OnFailure, Protocol, Tracking};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident = $model:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum $name { $(#[serde(rename = $text)] $variant,)* }

        impl $name {
            /// The word in JSON.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl From<$model> for $name {
            fn from(value: $model) -> Self {
                match value { $($model::$variant => Self::$variant,)* }
            }
        }

        impl From<$name> for $model {
            fn from(name: $name) -> Self {
                match name { $($name::$variant => Self::$variant,)* }
            }
        }
    };
}

names! {
    /// A [`Protocol`] in JSON.
    ProtocolName = Protocol { Tcp = "tcp", Udp = "udp" }
}
names! {
    /// A [`Mode`] in JSON.
    ModeName = Mode {
        Nat = "nat",
        FullNat = "full-nat",
        DsrL2 = "dsr-l2",
        DsrIpip = "dsr-ipip",
        DsrGue = "dsr-gue",
    }
}
names! {
    /// An [`Algorithm`] in JSON.
    AlgorithmName = Algorithm {
        Maglev = "maglev",
        SourceHash = "source-hash",
        RoundRobin = "round-robin",
        Random = "random",
        LeastConnections = "least-connections",
        LeastResponseTime = "least-response-time",
        PowerOfTwo = "power-of-two",
    }
}
names! {
    /// An [`OnDeadline`] in JSON.
    OnDeadlineName = OnDeadline { Resteer = "resteer", Reset = "reset" }
}
names! {
    /// A [`FragmentPolicy`] in JSON.
    FragmentsName = FragmentPolicy { Drop = "drop", Pass = "pass", ByAddress = "by-address" }
}
names! {
    /// An [`OnFailure`] in JSON.
    OnFailureName = OnFailure { Resteer = "resteer", Keep = "keep" }
}
names! {
    /// A [`Health`] in JSON.
    HealthName = Health { Unknown = "unknown", Up = "up", Down = "down" }
}

/// A [`Tracking`] in JSON; `connectionless` is a field of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TrackingName {
    OnChange,
    EveryFlow,
}

impl TrackingName {
    /// The word in JSON, where there is one.
    pub const fn of(tracking: Tracking) -> Option<Self> {
        match tracking {
            Tracking::OnChange => Some(Self::OnChange),
            Tracking::EveryFlow => Some(Self::EveryFlow),
            Tracking::Connectionless => None,
        }
    }
}

impl From<TrackingName> for Tracking {
    fn from(name: TrackingName) -> Self {
        match name {
            TrackingName::OnChange => Self::OnChange,
            TrackingName::EveryFlow => Self::EveryFlow,
        }
    }
}

/// The kind of a [`crate::model::Probe`] in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ProbeName {
    Tcp,
    Http,
}

/// The kind of a [`crate::model::Quic`] in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum SchemeName {
    #[serde(rename = "quic-lb")]
    QuicLb,
    #[serde(rename = "katran-v1")]
    KatranV1,
    #[serde(rename = "katran-v2")]
    KatranV2,
}

impl SchemeName {
    /// The word in JSON.
    pub const fn text(self) -> &'static str {
        match self {
            Self::QuicLb => "quic-lb",
            Self::KatranV1 => "katran-v1",
            Self::KatranV2 => "katran-v2",
        }
    }
}

//! Services as they are written: where their instances are, which one is taken, how connections are kept. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_saphyr::Spanned;

use super::{
    balance::BalanceDocument,
    breaker::BreakerDocument,
    connect::{Address, Protocol, UpstreamTlsDocument},
    retry::RetryDocument,
    units::Duration,
};

/// A service: endpoints that answer alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamDocument {
    /// Its instances.
    pub endpoints: Spanned<Vec<EndpointDocument>>,
    /// How many percent of the endpoints of a priority must be well, by weight, or those of the next have their requests;
    /// 50 by default.
    #[serde(default)]
    pub failover_percent: Option<Spanned<u8>>,
    /// How long an endpoint that comes back, from being down or left out, has less than its part of the requests: a tenth
    /// at first. Not by default.
    #[serde(default)]
    pub slow_start: Option<Spanned<Duration>>,
    /// What they speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// TLS with them; not by default.
    #[serde(default)]
    pub tls: Option<Spanned<UpstreamTlsDocument>>,
    /// Which instance a request goes to.
    #[serde(default)]
    pub balance: BalanceDocument,
    /// `Host` that is sent; by default the client's.
    #[serde(default)]
    pub host: Option<Spanned<String>>,
    /// Asking each instance whether it is well; not done by default.
    #[serde(default)]
    pub health: Option<HealthDocument>,
    /// Leaving out an instance that fails.
    #[serde(default)]
    pub ejection: EjectionDocument,
    /// Connections that are kept.
    #[serde(default)]
    pub pool: PoolDocument,
    /// Until a connection stands.
    #[serde(default = "connect")]
    pub connect_timeout: Duration,
    /// From a request that was sent to its answer's head; by default as long as the request has.
    #[serde(default)]
    pub first_byte_timeout: Option<Spanned<Duration>>,
    /// Sending a request once more. By default only what surely was not sent is, on another endpoint.
    #[serde(default)]
    pub retry: Option<Spanned<RetryDocument>>,
    /// Bounds of what is sent; none by default.
    #[serde(default)]
    pub breaker: Option<Spanned<BreakerDocument>>,
}

/// An instance: where it listens (`10.0.0.1:8080` or `unix:/run/service.sock`), or that and more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointDocument {
    /// Where it listens.
    pub address: Address,
    /// Its part of the requests, in proportion to the others'. From 1 to 100.
    pub weight: u32,
    /// 0 comes first; the next have requests when too few of it are well. Up to 255.
    pub priority: u8,
}

impl<'de> Deserialize<'de> for EndpointDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            address: Address,
            #[serde(default = "weight")]
            weight: u32,
            #[serde(default)]
            priority: u32,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EndpointDocument;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an address, or { address, weight, priority }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EndpointDocument, E> {
                let address = text.parse().map_err(E::custom)?;
                Ok(EndpointDocument { address, weight: weight(), priority: 0 })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<EndpointDocument, A::Error> {
                let Written { address, weight, priority } =
                    Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))?;
                if !(1..=100).contains(&weight) {
                    return Err(de::Error::custom(format!("weight {weight} is not from 1 to 100")));
                }
                match u8::try_from(priority) {
                    Ok(priority) => Ok(EndpointDocument { address, weight, priority }),
                    Err(_) => Err(de::Error::custom(format!("priority {priority} is not from 0 to 255"))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn weight() -> u32 {
    1
}

/// Asking each instance whether it is well: `GET path`, 2xx is well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthDocument {
    /// Path and query.
    pub path: Spanned<String>,
    /// From one question to the next.
    #[serde(default = "interval")]
    pub interval: Duration,
    /// Until the answer's headers.
    #[serde(default = "check_timeout")]
    pub timeout: Duration,
    /// Good answers in a row until an instance is well again.
    #[serde(default = "rise")]
    pub rise: u32,
    /// Bad answers in a row until it is not.
    #[serde(default = "fall")]
    pub fall: u32,
}

/// Leaving out an instance that fails: no connection, a broken one, no answer in time, 502, 503 or 504.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionDocument {
    /// Failures in a row until it is left out; 0: never.
    pub failures: u32,
    /// Failures among its requests until it is left out; not counted by default.
    pub ratio: Option<Spanned<RatioDocument>>,
    /// For how long at first; each time longer, up to ten times.
    pub duration: Duration,
    /// How many percent of the endpoints may be left out at once; by default all.
    pub percent_max: Option<Spanned<u8>>,
}

/// How many requests may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RatioDocument {
    /// So many of a hundred are too many.
    pub percent: u8,
    /// Of at least so many requests.
    pub volume: u32,
    /// In so long.
    pub window: Duration,
}

impl Default for RatioDocument {
    fn default() -> Self {
        Self { percent: 50, volume: 10, window: Duration::s(10) }
    }
}

impl Default for EjectionDocument {
    fn default() -> Self {
        Self { failures: 5, ratio: None, duration: Duration::s(5), percent_max: None }
    }
}

/// Connections to an instance that are kept for the next request, by each worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolDocument {
    /// Idle connections to one instance, HTTP/1.1.
    pub idle_max: u16,
    /// Requests at the same time on one connection, HTTP/2, if the instance takes so many; 100 by default.
    pub streams_max: Option<Spanned<u16>>,
    /// Connections to one instance, HTTP/2; 8 by default. When all are full, requests wait until one has ended.
    pub connections_max: Option<Spanned<u16>>,
    /// A connection with requests in flight is asked so often whether it is alive, HTTP/2, and given up when it does
    /// not answer for as long. Not by default: some services take it amiss.
    pub ping: Option<Spanned<Duration>>,
    /// Without a request.
    pub idle_timeout: Duration,
    /// A connection's age after which it serves no further request. Where the endpoint is a virtual address,
    /// only new connections follow the balancer's weights and drains.
    pub max_age: Duration,
}

impl Default for PoolDocument {
    fn default() -> Self {
        Self {
            idle_max: 128,
            streams_max: None,
            connections_max: None,
            ping: None,
            idle_timeout: Duration::s(30),
            max_age: Duration::s(60),
        }
    }
}

fn connect() -> Duration {
    Duration::s(2)
}

fn interval() -> Duration {
    Duration::s(2)
}

fn check_timeout() -> Duration {
    Duration::s(1)
}

fn rise() -> u32 {
    2
}

fn fall() -> u32 {
    3
}

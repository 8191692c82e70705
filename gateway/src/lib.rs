//! The API gateway: one request from its client to a service and back.
//!
//! Read [`pipeline`] first: it lists the stages of a request in order, and each stage is a module of the same name.
//!
//! | module | what |
//! |---|---|
//! | [`screen`] | refuses malformed HTTP/1.1 before the parser sees it |
//! | [`pipeline`] | the life of a request |
//! | [`admit`] | room for one more, a path that is read in one way only |
//! | [`route`] | host, path, method and what else must be so |
//! | [`authenticate`] | who asks: API keys, tokens |
//! | [`authorise`] | whether they may: scopes |
//! | [`mod@limit`] | how often they may (GCRA), exact over all cores |
//! | [`transform`] | path, headers, JSON, there and back |
//! | [`proxy`] | one service answers |
//! | [`split`], [`compose`] | several, one of them by weight; several answer, merged |
//! | [`mirror`] | copies of requests for another service |
//! | [`direct`] | answers that need no service |
//! | [`upgrade`] | another protocol after the answer: WebSocket, tunnels |
//! | [`grpc`] | calls: deadlines, and what a refusal is called there |
//! | [`upstream`] | services, instances, connections, health |
//! | [`respond`] | refusals become statuses and problem documents, here alone |
//! | [`config`], [`compile`], [`snapshot`] | the file, what is wrong with it, what requests read |
//! | [`shared`], [`record`], [`metrics`], [`access_log`], [`trace`] | what workers share, what is known of a request, counters, lines, spans |
//! | [`cli`], [`run`], [`accept`], [`admin`], [`reload`], [`drain`], [`handover`], [`service_manager`] | the process: command line, threads, connections, operators, new configurations, the stop, the next process |
//! | [`tls`] | certificates, keys, what listeners show |
//! | [`policy`] | rules that the configuration states as expressions |
//! | [`json`] | JSON whose leaves keep their bytes: parse, merge, reshape |
//! | [`path`], [`hop`], [`forwarded`], [`in_flight`], [`clock`], [`body`], [`log`], [`small_writes`], [`error`] | small nouns of the stages |

pub mod accept;
pub mod access_log;
pub mod admin;
pub mod admit;
pub mod authenticate;
pub mod authorise;
pub mod body;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod compose;
pub mod config;
pub mod direct;
pub mod drain;
pub mod error;
pub mod forwarded;
pub mod grpc;
pub mod handover;
pub mod hop;
pub mod in_flight;
pub mod json;
pub mod key;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod mirror;
pub mod path;
pub mod pipeline;
pub mod policy;
pub mod proxy;
pub mod record;
pub mod reload;
pub mod respond;
pub mod route;
pub mod run;
pub mod screen;
pub mod service_manager;
pub mod shared;
pub mod small_writes;
pub mod snapshot;
pub mod split;
pub mod tls;
pub mod trace;
pub mod transform;
pub mod upgrade;
pub mod upstream;

//! Portcullis as a whole: namespaces, real daemons, real servers and real clients.
//!
//! | module | what |
//! |---|---|
//! | [`requires`] | what a test needs of its host, and the sweep of what killed runs left |
//! | [`netns`] | one network namespace |
//! | [`topology`] | clients, balancer, switch and servers, wired up |
//! | [`dual`] | IPv6 beside IPv4, and tunnels' far ends |
//! | [`tiers`] | clients, gateways and services, joined by the balancer |
//! | [`process`] | a daemon: its log, signals and end |
//! | [`controller`] | `lb-control` in the balancer's namespace |
//! | [`control`] | its API over the Unix socket, and `lbctl` |
//! | [`serve`] | an HTTP server that closes without losing a request |
//! | [`server`] | `shop_server` in a server's namespace |
//! | [`gateway`] | the gateway daemon in a gateway's namespace |
//! | [`instance`] | `story_server`, an instance of a service |
//! | [`token`] | an issuer of tokens |
//! | [`certificate`] | a server's certificate |
//! | [`stage`] | what most tests begin with: topology, servers and controller |
//! | [`http`] | one client connection |
//! | [`load`] | a steady stream of requests, counted |
//! | [`curl`] | a client that is not ours |
//! | [`held`] | many connections held open and asked again and again |
//! | [`quic`] | QUIC servers whose connection ids name them |
//! | [`udp`] | datagrams with the time to live that they arrived with |
//! | [`cgroup`] | a cgroup, and processes in it |
//! | [`wire`] | frames as they are on a cable |
//! | [`xdp`] | a program that passes every packet, and a map of no use |
//! | [`eventually`] | waiting for a condition, with a deadline |
//! | [`screen`], [`interrupt`] | what the audience of a story sees, and Ctrl-C |
//! | [`shop`] | the story of the balancer alone, for the demo and for a test |
//! | [`demo`] | the stories of balancer and gateway together, for the demo and for tests |
//! | [`packet`] | packets with checksums that are not ours |
//! | [`oracle`] | random packets, judged by rules of their own |
//! | [`mod@bench`] | what a packet costs |
//! | [`bench_gateway`] | what a request costs, beside nginx and HAProxy |
//! | [`bench_scale`] | how many services the controller bears |
//! | [`conformance`] | whether the gateway keeps to the protocols, beside foreign clients and servers |
//!
//! Invariant: nothing here touches an interface outside the namespaces that it made.

pub mod bench;
pub mod bench_gateway;
pub mod bench_scale;
pub mod certificate;
pub mod cgroup;
pub mod conformance;
pub mod control;
pub mod controller;
pub mod curl;
pub mod demo;
pub mod dual;
pub mod eventually;
pub mod gateway;
pub mod held;
pub mod http;
pub mod instance;
pub mod interrupt;
pub mod load;
pub mod netns;
pub mod oracle;
pub mod packet;
pub mod process;
pub mod quic;
pub mod requires;
pub mod screen;
pub mod serve;
pub mod server;
pub mod shop;
pub mod stage;
pub mod tiers;
pub mod token;
pub mod topology;
pub mod udp;
pub mod wire;
pub mod xdp;

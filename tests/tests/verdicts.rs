//! Packet tables: packet in → reason, action, packet out byte by byte, counters, and what is remembered.
//!
//! Every row runs twice: through the shipped object by `BPF_PROG_TEST_RUN`, and through the host build of the
//! same packet code over plain memory. Expected packets and their checksums are etherparse's.
//!
//! | module | rows |
//! |---|---|
//! | `forward` | a client's packet to a backend, by mode; replies; the kernel's routes |
//! | `slots` | settled, moving and pinned; what is remembered; refusals |
//! | `refuse` | what is dropped: lengths that lie, fragments, options, limits, broken tables |
//! | `pass` | what is left to the stack, and ARP |
//! | `icmp` | errors about flows, to backends and to clients |
//! | `answered` | echoes, solicitations, and packets that go no further |
//! | `families` | IPv6 and its extension headers, VLAN tags, IPv4 options, what is too large |
//! | `tunnels` | packets within packets |
//! | `fragments` | the first, those that follow it, and what is unknown |
//! | `quic` | servers named by connection ids |
//! | `mss` | clamped segment sizes |
//! | `hardening` | what forged and contradictory packets must not do |
//! | `full_nat` | both ends are translated; ports and room run out |
//! | `reset` | connections of a cut backend: who still sends is answered with a reset |
//! | `tracked` | services that track every flow: algorithms, caps, affinity, what counts and what is timed |
//! | `wide` | ranges of ports, prefixes of addresses |

#[path = "verdicts/answered.rs"]
mod answered;
#[path = "verdicts/check.rs"]
mod check;
#[path = "verdicts/families.rs"]
mod families;
#[path = "verdicts/forward.rs"]
mod forward;
#[path = "verdicts/fragments.rs"]
mod fragments;
#[path = "verdicts/full_nat.rs"]
mod full_nat;
#[path = "verdicts/hardening.rs"]
mod hardening;
#[path = "verdicts/icmp.rs"]
mod icmp;
#[path = "verdicts/lanes.rs"]
mod lanes;
#[path = "verdicts/loads.rs"]
mod loads;
#[path = "verdicts/mss.rs"]
mod mss;
#[path = "verdicts/pass.rs"]
mod pass;
#[path = "verdicts/quic.rs"]
mod quic;
#[path = "verdicts/refuse.rs"]
mod refuse;
#[path = "verdicts/reset.rs"]
mod reset;
#[path = "verdicts/row.rs"]
mod row;
#[path = "verdicts/services.rs"]
mod services;
#[path = "verdicts/slots.rs"]
mod slots;
#[path = "verdicts/tracked.rs"]
mod tracked;
#[path = "verdicts/translations.rs"]
mod translations;
#[path = "verdicts/tunnels.rs"]
mod tunnels;
#[path = "verdicts/wide.rs"]
mod wide;
#[path = "verdicts/world.rs"]
mod world;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Result;
use lb_common::{Features, Reason};
use tests::requires::{DIRECTORY_PREFIX, requires};

use crate::{
    check::{Failure, check},
    lanes::{Host, Kernel},
    row::Row,
    world::Routes,
};

fn rows() -> Vec<Row> {
    [
        forward::rows(),
        slots::rows(),
        refuse::rows(),
        pass::rows(),
        fragments::rows(),
        quic::rows(),
        mss::rows(),
        families::rows(),
        tunnels::rows(),
        full_nat::rows(),
        wide::rows(),
        tracked::rows(),
        reset::rows(),
        hardening::rows(),
        icmp::rows(),
        answered::rows(),
    ]
    .concat()
}

#[test]
fn every_reason_has_a_row_and_names_are_unique() {
    let rows = rows();
    let missing: Vec<_> =
        Reason::ALL.iter().filter(|reason| rows.iter().all(|row| row.reason != **reason)).collect();
    assert!(missing.is_empty(), "no row ends in {missing:?}");
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len());
}

#[test]
fn the_host_build_agrees_with_every_row() -> Result<()> {
    let mut host = Host::new()?;
    conclude(rows().iter().filter(|row| row.in_memory()).map(|row| check(&mut host, row)))
}

/// What a feature is for fails without it: its rows test it, and nothing else stands in.
#[test]
fn every_feature_is_missed_by_its_rows() -> Result<()> {
    let mut host = Host::new()?;
    for &(feature, name) in Features::ALL_NAMED {
        let without = Features::from_word(Features::ALL.word() & !feature.word());
        host.load_for(without);
        let mut failed = 0;
        for row in rows().iter().filter(|row| row.in_memory()) {
            failed += usize::from(check(&mut host, row)?.is_some());
        }
        println!("without {name}: {failed} rows fail");
        assert!(failed >= 5, "only {failed} rows miss {name}");
    }
    Ok(())
}

#[test]
fn smoke_the_kernel_agrees_with_every_row() -> Result<()> {
    requires();
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-verdicts", std::process::id()));
    let routes = Routes::create()?;
    routes.enter(|| {
        let mut kernel = Kernel::new(pin_dir)?;
        conclude(rows().iter().filter(|row| row.in_kernel()).map(|row| check(&mut kernel, row)))
    })?
}

fn conclude(results: impl Iterator<Item = Result<Option<Failure>>>) -> Result<()> {
    let mut failures = Vec::new();
    let mut count = 0;
    for result in results {
        count += 1;
        failures.extend(result?.map(|failure| failure.report()));
    }
    println!("{count} rows, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {count} rows failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

//! Clients with flows, each of which sends often enough to keep it, and what is promised to them.

use crate::world::{IDLE_SECONDS, Kind, World};

/// A flow that goes on.
#[derive(Clone, Debug)]
pub struct Flow {
    pub client: u32,
    pub port: u16,
    /// The backend that is promised: of the first packet, or of the first after the one before stopped serving; 0: none.
    pub backend: u32,
    /// It sends at least this often, seconds; not more than the idle timeout.
    gap: u32,
    /// Its SYN was lost, or the answer: it comes again.
    opens_again: bool,
    /// Whether its first SYN may have been refused by a full table.
    unsure: bool,
}

/// Flows of one service.
#[derive(Default)]
pub struct Crowd {
    pub flows: Vec<Flow>,
    last: u32,
    /// Nothing is said of SYNs that come again: the table is full at times.
    scarce: bool,
}

impl Crowd {
    /// One whose flows the table may refuse.
    pub fn scarce() -> Self {
        Self { scarce: true, ..Self::default() }
    }

    /// So many new flows.
    pub fn open(&mut self, world: &mut World, count: usize) {
        for _ in 0..count {
            self.last += 1;
            // Consecutive ports of a client, as kernels do, over 16 Mi addresses.
            let client = 0x2000_0000 + (self.last >> 6);
            let port = 1_024 + (self.last & 63) as u16 * 7;
            let backend = world.send(client, port, Kind::Syn);
            let opens_again = world.random.one_in(8);
            let gap = if world.random.one_in(4) { IDLE_SECONDS } else { 1 + world.random.below(10) };
            self.flows.push(Flow { client, port, backend, gap, opens_again, unsure: self.scarce });
        }
    }

    /// So many flows end, and as many begin.
    pub fn replace(&mut self, world: &mut World, count: usize) {
        for _ in 0..count.min(self.flows.len()) {
            let which = world.random.below(self.flows.len() as u32) as usize;
            let mut flow = self.flows.swap_remove(which);
            send(world, &mut flow, Kind::Fin);
        }
        self.open(world, count);
    }

    /// Every flow sends a packet.
    pub fn all_send(&mut self, world: &mut World) {
        for flow in &mut self.flows {
            send(world, flow, Kind::Data);
        }
    }

    /// The flows whose time it is send a packet.
    pub fn second(&mut self, world: &mut World) {
        for flow in &mut self.flows {
            if flow.opens_again {
                flow.opens_again = false;
                if flow.unsure {
                    flow.backend = 0;
                }
                send(world, flow, Kind::Syn);
            } else if (world.now + u32::from(flow.port)).is_multiple_of(flow.gap) {
                send(world, flow, Kind::Data);
            }
        }
    }

    /// After a change: flows of one that serves no more go elsewhere, wherever that is.
    pub fn release(&mut self, world: &World) {
        for flow in &mut self.flows {
            if !world.serves(flow.backend) {
                flow.backend = 0;
            }
        }
    }

    /// Nothing is promised to connections that are not established yet.
    pub fn doubt_openings(&mut self) {
        for flow in &mut self.flows {
            flow.unsure |= flow.opens_again;
        }
    }

    /// So many seconds pass.
    pub fn pass(&mut self, world: &mut World, seconds: u32) {
        for _ in 0..seconds {
            world.second();
            self.second(world);
        }
    }
}

fn send(world: &mut World, flow: &mut Flow, kind: Kind) {
    let backend = world.send(flow.client, flow.port, kind);
    if flow.backend == 0 {
        flow.backend = backend;
    }
    assert_eq!(backend, flow.backend, "a packet ({kind:?}) of {flow:?} left its backend");
}

//! The segment size that a SYN announces (RFC 9293, 3.7.1), and what a clamp makes of it. Pure.

use super::edit::{Edited, Ends};
use super::read::{Event, Transport};
use super::sum::{sum, together};

/// Options looked at; what announces its size later is left as it is.
const OPTIONS_MAX: usize = 16;

/// Where the announced size stands, if there is one.
fn announced(frame: &[u8], transport: &Transport) -> Option<usize> {
    let l4 = transport.ip.l4;
    let end = l4 + usize::from(frame[l4 + 12] >> 4) * 4;
    let mut at = l4 + 20;
    for _ in 0..OPTIONS_MAX {
        let option = frame[at..end].get(..4)?;
        match (option[0], option[1]) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, 4) => return Some(at + 2),
            (_, 0 | 1) => return None,
            (_, len) => at += usize::from(len),
        }
        if at > end {
            return None;
        }
    }
    None
}

/// The frame with its announced size lowered; `None` where it stays as it is.
pub fn clamped(frame: &[u8], transport: &Transport, mss: u16) -> Option<Vec<u8>> {
    if mss == 0 || !matches!(transport.event, Event::Open | Event::Accept) {
        return None;
    }
    let at = announced(frame, transport)?;
    if u16::from_be_bytes([frame[at], frame[at + 1]]) <= mss {
        return None;
    }
    let mut edited = Edited::new(frame);
    let lower = |bytes: &mut [u8]| bytes[at..at + 2].copy_from_slice(&mss.to_be_bytes());
    edited.ends(transport, Ends::default(), lower);
    if let Some(damaged) = edited.damaged.first() {
        // As wrong as before: the same sum, moved to what was written.
        let (from, to, check) = (damaged.from, damaged.to, damaged.at);
        let old = u16::from_be_bytes([frame[check], frame[check + 1]]);
        let grown = together(&[sum(&edited.bytes[from..to]), !sum(&frame[from..to])]);
        let new = !together(&[!old, grown]);
        edited.bytes[check..check + 2].copy_from_slice(&new.to_be_bytes());
    }
    Some(edited.bytes)
}

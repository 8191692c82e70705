//! Mutations: flipped bits, cuts at any length, lengths that lie. Pure.

use super::craft::Class;
use super::random::Random;
use super::read::tags;

/// Spoils a frame in one of three ways.
pub fn spoil(random: &mut Random, class: Class, mut frame: Vec<u8>) -> (Class, Vec<u8>) {
    if frame.is_empty() {
        return (class, frame);
    }
    match random.below(3) {
        0 => {
            for _ in 0..random.between(1, 4) {
                // Headers more often than what follows them.
                let within = if random.one_in(4) { frame.len() } else { frame.len().min(80) };
                let at = random.below(within);
                frame[at] ^= 1 << random.below(8);
            }
            (Class::Flipped, frame)
        }
        1 => {
            let to =
                if random.one_in(2) { random.below(frame.len()) } else { random.below(frame.len().min(90)) };
            frame.truncate(to);
            (Class::Cut, frame)
        }
        _ => {
            lie(random, &mut frame);
            (Class::Lied, frame)
        }
    }
}

/// Overwrites a length, a header length, a fragment field or a next header.
fn lie(random: &mut Random, frame: &mut [u8]) {
    let l3 = 14 + 4 * tags(frame);
    // IPv4: header length, total length, fragment; TCP offset and UDP length of both families; next headers.
    let at = l3 + *random.pick(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 24, 25, 32, 40, 41, 42, 43, 44, 45, 48, 49, 52]);
    let values = [0, 1, 4, 5, 6, 7, 8, 20, 0x41, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xff, random.byte()];
    if let Some(byte) = frame.get_mut(at) {
        *byte = *random.pick(&values);
    }
}

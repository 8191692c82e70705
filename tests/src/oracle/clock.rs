//! The second that programs in the kernel read.

use std::time::Duration;

/// Nobody runs near a change of second: by then two lanes could see different ones.
const SECOND_MARGIN_NANOS: i64 = 40_000_000;

fn coarse() -> (u32, i64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec, and a clock that always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    (time.tv_sec as u32, time.tv_nsec)
}

/// The second that the program reads.
pub fn second() -> u32 {
    coarse().0
}

/// The same, at a moment that is not near its end.
pub fn steady_second() -> u32 {
    loop {
        let (second, nanos) = coarse();
        if nanos < 1_000_000_000 - SECOND_MARGIN_NANOS {
            return second;
        }
        std::thread::sleep(Duration::from_nanos((1_000_000_000 - nanos) as u64));
    }
}

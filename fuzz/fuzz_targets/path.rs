//! Any path: it is refused, or has one form, in which nothing is left that a service may read otherwise.
#![no_main]

use gateway::path::canonical;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    // The screen lets only visible ASCII through.
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return;
    }
    let Ok(once) = canonical(path) else { return };
    assert_eq!(canonical(&once).as_deref(), Ok(&*once), "its form has another form");
    assert!(!once.contains("//") && !once.contains('\\') && !once.contains("%00"), "{once}");
    assert!(once.split('/').skip(1).all(|segment| segment != "." && segment != ".."), "{once}");
});

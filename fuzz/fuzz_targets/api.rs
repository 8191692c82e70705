//! Any bytes as the body of an order: it is refused, or becomes a service that reads back as what it is.
#![no_main]

use lb_control::model::{Object, Service, ServiceSpec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(Object(spec)) = serde_json::from_slice::<Object<ServiceSpec>>(body) else { return };
    let Ok(service) = Service::new(&spec) else { return };
    let again = Service::new(&service.spec());
    assert_eq!(again.as_ref(), Ok(&service), "a service's own words are refused");
});

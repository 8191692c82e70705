//! Builds the BPF objects that the tests load; at compile time `PORTCULLIS_BPF_OBJECT` names the balancer's, and
//! `PORTCULLIS_DECAP_OBJECT` the one for backends.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    let object = build_ebpf::for_build_script("lb-ebpf");
    println!("cargo::rustc-env=PORTCULLIS_BPF_OBJECT={}", object.display());
    let object = build_ebpf::for_build_script("decap");
    println!("cargo::rustc-env=PORTCULLIS_DECAP_OBJECT={}", object.display());
}

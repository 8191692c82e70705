//! Builds the BPF objects that the tests load. At compile time `PORTCULLIS_BPF_OBJECT` names the balancer's,
//! `PORTCULLIS_DECAP_OBJECT` the one for backends, and `PORTCULLIS_SOCKET_OBJECT` the one for the balancer's own
//! sockets.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    let object = build_ebpf::for_build_script("lb-ebpf");
    println!("cargo::rustc-env=PORTCULLIS_BPF_OBJECT={}", object.display());
    let object = build_ebpf::for_build_script("decap");
    println!("cargo::rustc-env=PORTCULLIS_DECAP_OBJECT={}", object.display());
    let object = build_ebpf::for_build_script("socket");
    println!("cargo::rustc-env=PORTCULLIS_SOCKET_OBJECT={}", object.display());
}

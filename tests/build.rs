//! Builds the BPF object that the packet tests load; `PORTCULLIS_BPF_OBJECT` names it at compile time.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    let object = build_ebpf::for_build_script("lb-ebpf");
    println!("cargo::rustc-env=PORTCULLIS_BPF_OBJECT={}", object.display());
}

//! Builds the BPF object that the daemon carries: `OUT_DIR/lb-ebpf.o`, empty where the tools are missing.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    build_ebpf::for_build_script("lb-ebpf");
}

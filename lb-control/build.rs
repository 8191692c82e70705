//! Builds the BPF objects that the daemon and `lbctl` carry: `OUT_DIR/lb-ebpf.o` and `OUT_DIR/decap.o`, empty where
//! the tools are missing.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    build_ebpf::for_build_script("lb-ebpf");
    build_ebpf::for_build_script("decap");
}

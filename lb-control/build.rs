//! Builds the BPF objects that the daemon and `lbctl` carry: `lb-ebpf.o`, `decap.o` and `socket.o` in `OUT_DIR`, empty
//! where the tools are missing.

#[path = "../xtask/src/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() {
    build_ebpf::for_build_script("lb-ebpf");
    build_ebpf::for_build_script("decap");
    build_ebpf::for_build_script("socket");
}

//! A virtual machine with a stock Debian kernel, for a command and the files that it needs.
//!
//! Everything runs from one initramfs in memory: kernel modules, a shell and network tools, then the job's
//! own files. No root is needed on the host, no image, no daemon.
//! The processor is emulated, which is slow but always works: times measured inside mean nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpio::Cpio;
use crate::host;
use crate::packages;
use crate::setup::{self, Needs};
use crate::step;
use crate::workspace;

/// Debian's package that depends on the current kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// The parts of the kernel's modules that a network test may load; all of them would double the boot.
const MODULE_FOLDERS: [&str; 9] = [
    "kernel/net",
    "kernel/drivers/net",
    "kernel/drivers/virtio",
    "kernel/drivers/block",
    "kernel/drivers/char/hw_random",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/fs/fuse",
];

/// Copied from the host where they are installed.
const TOOLS: [&str; 24] = [
    "bash",
    "ip",
    "tc",
    "ss",
    "bridge",
    "ethtool",
    "bpftool",
    "curl",
    "wrk",
    "nginx",
    "kmod",
    "sysctl",
    "unshare",
    "nsenter",
    "setpriv",
    "timeout",
    "sleep",
    "ping",
    "tracepath",
    "tcpdump",
    "nft",
    "ipvsadm",
    "iperf3",
    "openssl",
];

/// Bytes of memory: the archive, what is unpacked from it, and the maps of the packet path.
const MEMORY_MIB: u32 = 3072;

/// The guest's two network cards have this many queues: twice the CPUs, or XDP's transmissions take locks.
const NIC_QUEUES: u32 = 4;
const CPUS: u32 = 2;

/// The room for what the job leaves in `/results`.
const RESULTS_BYTES: u64 = 64 << 20;

/// The guest's last line, which carries the job's exit code.
const EXIT_LINE: &str = "portcullis-vm-exit-code: ";

/// Run a command inside the virtual machine with a stock Debian kernel
///
/// Boots in seconds, needs no root, and leaves the host alone. Inside are a shell, ip, tc, ethtool, bpftool,
/// curl and what else of the usual network tools this host has, and two virtio cards, eth0 and eth1,
/// on one wire. What the command leaves in /results comes back to .tools/vm/results, with the kernel's log.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask vm 'uname -a; ip -brief link'\n  \
    cargo xtask vm --file target/debug/lb-control '$PWD/target/debug/lb-control --help'")]
pub struct Args {
    /// A file or folder that the command needs; inside it has the same absolute name
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// End the machine after this many seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// For bash inside, in the checkout's folder
    command: String,
}

pub fn command(args: &Args) -> Result<()> {
    setup::ensure(Needs { machine: true, ..Needs::default() })?;
    let files = args
        .file
        .iter()
        .map(|path| path.canonicalize().with_context(|| format!("cannot read {}", path.display())))
        .collect::<Result<_>>()?;
    run(&VmJob { command: args.command.clone(), files, timeout: Duration::from_secs(args.timeout) })?
        .into_result()
}

/// What to run inside.
pub struct VmJob {
    /// For the guest's bash; busybox' shell would prefer its own `ip`.
    pub command: String,
    /// Files and folders of the host; the guest has them under the same names, and programs with their
    /// shared libraries.
    pub files: Vec<PathBuf>,
    /// After this long the machine is ended.
    pub timeout: Duration,
}

/// What came back.
pub struct VmOutcome {
    /// The command's exit code.
    pub code: i32,
    /// All that the guest wrote on its console.
    pub output: Vec<String>,
    /// The folder with what the command left in `/results`, and the guest's kernel log.
    pub results: PathBuf,
}

impl VmOutcome {
    /// An error unless the command ended well.
    pub fn into_result(self) -> Result<()> {
        match self.code {
            0 => Ok(()),
            code => bail!(
                "exit code {code} inside the virtual machine; its logs are in {}",
                self.results.display()
            ),
        }
    }
}

/// Boots the machine, runs the job, brings back exit code, output and logs.
pub fn run(job: &VmJob) -> Result<VmOutcome> {
    let folder = workspace::tools().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    sweep(&folder);
    let kernel = kernel(&folder)?;
    let scratch = folder.join(format!("run-{}", std::process::id()));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    let outcome = boot(job, &kernel, &scratch);
    for bulky in ["initramfs", "results.img"] {
        let _ = fs::remove_file(scratch.join(bulky));
    }
    let mut outcome = outcome?;
    // One folder, the last run's: logs of all runs would fill the disk.
    let results = folder.join("results");
    let _ = fs::remove_dir_all(&results);
    fs::rename(&scratch, &results)?;
    outcome.results = results;
    Ok(outcome)
}

/// Removes what killed runs left: their archives are as large as the payload.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A kernel of Debian's, unpacked.
struct Kernel {
    version: String,
    image: PathBuf,
    modules: PathBuf,
}

/// The current kernel, downloaded when there is a newer one than last time.
fn kernel(folder: &Path) -> Result<Kernel> {
    let package = kernel_package()?;
    let folder = folder.join(&package);
    let version = package.trim_start_matches("linux-image-").to_owned();
    if !folder.join("complete").exists() {
        fetch_kernel(&package, &folder)?;
        fs::write(folder.join("complete"), "")?;
    }
    let modules = modules_folder(&folder, &version)?;
    Ok(Kernel { image: folder.join(format!("boot/vmlinuz-{version}")), version, modules })
}

/// The package of the current kernel. Never a fixed name: superseded ones vanish from the mirrors.
fn kernel_package() -> Result<String> {
    if !packages::available() || std::env::consts::ARCH != "x86_64" {
        bail!(
            "the virtual machine takes its kernel from Debian's packages for amd64, with apt-get and dpkg-deb"
        );
    }
    if !packages::known(KERNEL_PACKAGE) {
        packages::refresh();
    }
    let output = Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]).output()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
        })
        .map(str::to_owned)
        .with_context(|| {
            format!("apt knows no {KERNEL_PACKAGE}; run, as root\n  apt-get update\nand try again")
        })
}

fn fetch_kernel(package: &str, into: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into)?;
    let download = |fresh: &str| {
        let mut command = Command::new("apt-get");
        // apt's own sandbox user may not write here, and says so in a warning at most.
        command.args(["-q", "download", package]).current_dir(into);
        step::quiet(&format!("virtual machine: download {package}{fresh}"), "vm-kernel", &mut command)
    };
    if download("").is_err() {
        packages::refresh();
        download(" again")
            .with_context(|| format!("run, as root\n  apt-get update\nthen\n  apt-get download {package}"))?;
    }
    let deb = fs::read_dir(into)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no package"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(into);
    step::quiet("virtual machine: unpack the kernel", "vm-unpack", &mut unpack)?;
    fs::remove_file(deb)?;
    Ok(())
}

fn modules_folder(kernel_folder: &Path, version: &str) -> Result<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|folder| kernel_folder.join(folder).join(version))
        .find(|folder| folder.is_dir())
        .with_context(|| format!("the kernel's package has no modules of {version}"))
}

/// What every run begins with. Packing takes less than half a second, so it is always of today's tools.
fn write_base(archive: &Path, kernel: &Kernel, scratch: &Path) -> Result<()> {
    let mut tree = Tree::new(Cpio::new(BufWriter::new(File::create(archive)?)));
    // Debian's merged /usr; a real /lib would hide the libraries.
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        tree.symlink(Path::new("/").join(link).as_path(), target)?;
    }
    for folder in [
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/tmp",
        "/root",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib64",
        "/results",
        "/var/log/nginx",
        "/var/lib/nginx",
        "/var/lib/portcullis",
    ] {
        tree.folder(Path::new(folder))?;
    }
    tree.symlink(Path::new("/var/run"), "/run")?;
    tree.archive.device("dev/console", 5, 1)?;
    tree.archive.device("dev/null", 1, 3)?;
    tree.text("/init", 0o755, include_str!("vm/init.sh"))?;
    tree.text(
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    tree.text("/etc/group", 0o644, "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")?;
    tree.text("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")?;
    tree.text("/etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files\n")?;

    for tool in TOOLS {
        if let Some(path) = tool_path(tool) {
            tree.program(&path)?;
        }
    }
    let busybox = tool_path("busybox").context("no busybox; run\n  cargo xtask setup")?;
    let busybox = tree.program(&busybox)?;
    if let Some(kmod) = tool_path("kmod") {
        let kmod = canonical(&kmod);
        for name in ["modprobe", "depmod", "lsmod", "insmod"] {
            tree.symlink(&Path::new("/usr/sbin").join(name), &kmod.to_string_lossy())?;
        }
    }
    let applets = Command::new(&busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        let real = ["/usr/bin", "/usr/sbin"].iter().any(|folder| tree.has(&Path::new(folder).join(applet)));
        if !real {
            tree.symlink(&Path::new("/usr/bin").join(applet), &busybox.to_string_lossy())?;
        }
    }
    add_modules(&mut tree, kernel, &scratch.join("modules"))?;
    tree.archive.finish()?;
    Ok(())
}

/// The modules that a test may load, with an index of exactly these.
fn add_modules<W: io::Write>(tree: &mut Tree<W>, kernel: &Kernel, chosen: &Path) -> Result<()> {
    let Kernel { version, modules, .. } = kernel;
    let inside = chosen.join("lib/modules").join(version);
    fs::create_dir_all(&inside)?;
    for folder in MODULE_FOLDERS {
        let from = modules.join(folder);
        if from.is_dir() {
            let to = inside.join(folder);
            fs::create_dir_all(to.parent().unwrap_or(&inside))?;
            step::shown(Command::new("cp").arg("-al").arg(from).arg(to))?;
        }
    }
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let _ = fs::copy(modules.join(index), inside.join(index));
    }
    let depmod = tool_path("depmod").context("no depmod; run\n  cargo xtask setup")?;
    let mut command = Command::new(depmod);
    command.arg("-b").arg(chosen).arg(version).stderr(Stdio::null());
    step::shown(&mut command)?;
    tree.copy_all(&inside, &Path::new("/usr/lib/modules").join(version))?;
    fs::remove_dir_all(chosen)?;
    Ok(())
}

/// Writes the base and the job's files, boots, and waits for the end.
fn boot(job: &VmJob, kernel: &Kernel, scratch: &Path) -> Result<VmOutcome> {
    let initramfs = scratch.join("initramfs");
    write_base(&initramfs, kernel, scratch).context("cannot pack the virtual machine's files")?;
    let mut tree = Tree::new(Cpio::new(BufWriter::new(File::options().append(true).open(&initramfs)?)));
    let script = format!("#!/usr/bin/bash\ncd {}\n{}\n", workspace::root().display(), job.command);
    tree.text("/job", 0o755, &script)?;
    tree.folder(&workspace::root())?;
    for file in &job.files {
        if file.is_dir() {
            tree.copy_all(file, file)?;
        } else {
            tree.stripped(file, scratch).with_context(|| format!("cannot take {} along", file.display()))?;
        }
    }
    tree.archive.finish()?;
    File::create(scratch.join("results.img"))?.set_len(RESULTS_BYTES)?;

    let started = Instant::now();
    let mut child = qemu(&kernel.image, &initramfs, &scratch.join("results.img"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start the virtual machine; run\n  cargo xtask setup")?;
    let (sender, receiver) = mpsc::channel();
    if let Some(console) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    let mut output = Vec::new();
    let mut code = None;
    loop {
        let left = job.timeout.saturating_sub(started.elapsed());
        match receiver.recv_timeout(left) {
            Ok(line) => match line.strip_prefix(EXIT_LINE) {
                Some(number) => code = number.trim().parse().ok(),
                None => {
                    println!("  vm| {line}");
                    output.push(line);
                }
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("the virtual machine did not end within {} s and was ended", job.timeout.as_secs());
            }
        }
    }
    let status = child.wait()?;
    fs::write(scratch.join("console.txt"), output.join("\n"))?;
    let Some(code) = code else {
        bail!("the virtual machine ended without a word ({status}); its last lines:\n{}", tail(&output, 20));
    };
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(scratch.join("results.img")).arg("-C").arg(scratch).stderr(Stdio::null());
    if !host::succeeds(&mut unpack) {
        eprintln!("the virtual machine left no logs");
    }
    Ok(VmOutcome { code, output, results: scratch.to_owned() })
}

fn qemu(kernel: &Path, initramfs: &Path, results: &Path) -> Command {
    let machine = format!(
        "exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp {CPUS} -m {MEMORY_MIB} \
         -nodefaults -no-user-config -no-reboot -display none -serial stdio \
         -kernel \"$1\" -initrd \"$2\" -drive file=\"$3\",format=raw,if=virtio \
         -append 'console=ttyS0 quiet panic=-1 oops=panic rdinit=/init random.trust_cpu=on net.ifnames=0'"
    );
    // Two cards on one wire. With several queues they need taps, which an unprivileged user may have in a
    // namespace of his own; where even that is refused, a hub inside QEMU joins them, with one queue each.
    let vectors = 2 * NIC_QUEUES + 2;
    let script = format!(
        "wire() {{ ip link add wire type bridge mcast_snooping 0 && ip link set wire up && \
         for tap in tap0 tap1; do \
         ip tuntap add dev $tap mode tap multi_queue vnet_hdr && ip link set $tap master wire up || return 1; done; }}\n\
         if [ -w /dev/net/tun ] && [ \"$4\" = own-namespace ] && wire >/dev/null 2>&1; then \
         {machine} \
         -netdev tap,id=n0,ifname=tap0,script=no,downscript=no,queues={NIC_QUEUES} \
         -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:10,mq=on,vectors={vectors},romfile= \
         -netdev tap,id=n1,ifname=tap1,script=no,downscript=no,queues={NIC_QUEUES} \
         -device virtio-net-pci,netdev=n1,mac=52:54:00:00:00:11,mq=on,vectors={vectors},romfile=\n\
         else {machine} \
         -netdev hubport,id=n0,hubid=0 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:10,romfile= \
         -netdev hubport,id=n1,hubid=0 -device virtio-net-pci,netdev=n1,mac=52:54:00:00:00:11,romfile=\n\
         fi"
    );
    let unshare: &[&str] = if host::is_root() { &["--net"] } else { &["--net", "--user", "--map-root-user"] };
    let separate = host::succeeds(Command::new("unshare").args(unshare).arg("true"));
    let mut command = if separate { Command::new("unshare") } else { Command::new("sh") };
    if separate {
        command.args(unshare).arg("sh");
    }
    command.args(["-c", &script, "vm"]).arg(kernel).arg(initramfs).arg(results);
    command.arg(if separate { "own-namespace" } else { "" });
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // A machine whose parent was killed must not go on.
    // SAFETY: prctl with these arguments only sets an attribute of the new process.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// An archive with the folders that it already has.
struct Tree<W: io::Write> {
    archive: Cpio<W>,
    paths: BTreeSet<PathBuf>,
}

impl<W: io::Write> Tree<W> {
    fn new(archive: Cpio<W>) -> Tree<W> {
        Tree { archive, paths: BTreeSet::new() }
    }

    fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// The folder and all above it.
    fn folder(&mut self, path: &Path) -> io::Result<()> {
        if path == Path::new("/") || path.as_os_str().is_empty() || !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.archive.directory(&path.to_string_lossy())
    }

    fn symlink(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.prepare(path)?;
        self.archive.symlink(&path.to_string_lossy(), target)
    }

    fn text(&mut self, path: &str, mode: u32, text: &str) -> io::Result<()> {
        self.prepare(Path::new(path))?;
        self.archive.file(path, mode, text.as_bytes())
    }

    fn prepare(&mut self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.paths.insert(path.to_owned());
        Ok(())
    }

    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.has(to) {
            return Ok(());
        }
        self.prepare(to)?;
        self.archive.copy(from, &to.to_string_lossy())
    }

    /// A folder with everything in it; symbolic links become what they point to.
    fn copy_all(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.folder(to)?;
        let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                self.copy_all(&from, &to)?;
            } else if from.is_file() {
                self.copy(&from, &to)?;
            }
        }
        Ok(())
    }

    /// A program and its shared libraries, at their real places; returns the program's.
    fn program(&mut self, path: &Path) -> io::Result<PathBuf> {
        let place = canonical(path);
        self.copy(path, &place)?;
        // A link such as /usr/sbin/ip keeps its name.
        let named = canonical(path.parent().unwrap_or(path)).join(path.file_name().unwrap_or_default());
        if named != place && !self.has(&named) {
            self.symlink(&named, &place.to_string_lossy())?;
        }
        self.libraries(path)?;
        Ok(place)
    }

    fn libraries(&mut self, program: &Path) -> io::Result<()> {
        let listed = Command::new("ldd").arg(program).output()?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
            // By the name under which the loader asks for it, with the content that this leads to.
            let library = Path::new(library);
            let place =
                canonical(library.parent().unwrap_or(library)).join(library.file_name().unwrap_or_default());
            self.copy(library, &place)?;
        }
        Ok(())
    }

    /// A program without its debugging information, which is most of it.
    fn stripped(&mut self, program: &Path, scratch: &Path) -> io::Result<()> {
        let slim = scratch.join("stripped");
        let is_elf = fs::read(program)?.starts_with(b"\x7fELF");
        let executable = is_elf && program.extension().is_none_or(|extension| extension != "o");
        if executable && host::succeeds(Command::new("strip").arg("-o").arg(&slim).arg(program)) {
            self.copy(&slim, program)?;
            fs::remove_file(slim)?;
        } else {
            self.copy(program, program)?;
        }
        if executable {
            self.libraries(program)?;
        }
        Ok(())
    }
}

/// Where a tool is, also outside a plain user's PATH.
fn tool_path(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.is_file())
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn tail(lines: &[String], count: usize) -> String {
    lines[lines.len().saturating_sub(count)..].join("\n")
}

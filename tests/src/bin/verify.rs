//! Loads every program of the BPF objects (arguments; by default those that this build made), in every variant, and
//! compares what the verifier found with a stated budget.
//!
//! The kernel says how many instructions a program has, how many it walked and how large the machine code
//! is. It does not say how deep the stack grows, so that is read from the instructions themselves.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use aya::EbpfLoader;
use aya::programs::{Program, ProgramError, ProgramInfo};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use clap::Parser;
use lb_common::Features;

/// What a program may cost. Raise a number only together with the reason for it.
struct Budget {
    program: &'static str,
    /// Instructions after the verifier; the fewer, the fewer cache lines a packet needs.
    instructions: u32,
    /// Instructions that the verifier walks, over all paths; older kernels walk more of them, and every
    /// kernel stops at a million.
    verified: u32,
    /// Bytes of machine code: the instruction cache of a core has 32 KiB.
    machine_code: u32,
    /// Bytes of stack over the deepest chain of calls; the kernel stops at 512.
    stack: u32,
}

const BUDGETS: [Budget; 18] = [
    Budget {
        program: "portcullis",
        // With QUIC, which costs 200, and all other features at once; packets from their own destination cost 30.
        instructions: 5_300,
        // Linux 6.1 walks 260,000 with tunnels alone, more than with everything.
        verified: 400_000,
        machine_code: 25 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_uncommon",
        instructions: 5_500,
        verified: 500_000,
        machine_code: 28 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_control",
        instructions: 6_000,
        // Linux 6.1 walks 550,000: errors, what is owed, and connection ids meet in it.
        verified: 650_000,
        machine_code: 32 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_full_nat",
        instructions: 6_000,
        verified: 500_000,
        machine_code: 32 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_full_nat_open",
        instructions: 4_000,
        verified: 700_000,
        machine_code: 20 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_fragment",
        instructions: 6_500,
        // Two ways to find where a fragment goes meet five to send it there, each to the end.
        verified: 750_000,
        machine_code: 32 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_track",
        instructions: 5_500,
        verified: 600_000,
        machine_code: 28 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_open",
        instructions: 5_500,
        verified: 300_000,
        machine_code: 28 << 10,
        stack: 480,
    },
    Budget {
        program: "portcullis_reset",
        instructions: 1_000,
        // Nearly all of them are the parser's.
        verified: 20_000,
        machine_code: 5 << 10,
        stack: 256,
    },
    Budget {
        program: "portcullis_decap",
        instructions: 1_000,
        // More than half are the walk over IPv6 extension headers.
        verified: 40_000,
        machine_code: 5 << 10,
        stack: 240,
    },
    turning("portcullis_connect4"),
    turning("portcullis_connect6"),
    turning("portcullis_sendmsg4"),
    turning("portcullis_sendmsg6"),
    naming("portcullis_recvmsg4"),
    naming("portcullis_recvmsg6"),
    naming("portcullis_getpeername4"),
    naming("portcullis_getpeername6"),
];

/// Of a program that turns a socket to a backend.
const fn turning(program: &'static str) -> Budget {
    Budget { program, instructions: 700, verified: 12_000, machine_code: 4 << 10, stack: 240 }
}

/// Of a program that tells a socket the service that it means.
const fn naming(program: &'static str) -> Budget {
    Budget { program, instructions: 120, verified: 200, machine_code: 1 << 10, stack: 96 }
}

/// The objects of this build.
const OBJECTS: [&str; 3] =
    [env!("PORTCULLIS_BPF_OBJECT"), env!("PORTCULLIS_DECAP_OBJECT"), env!("PORTCULLIS_SOCKET_OBJECT")];

/// What an object is loaded for, one after the other: nothing, each feature alone, and all.
fn variants(object: &Object) -> Vec<(String, Features)> {
    if !object.programs.contains_key("portcullis") {
        return vec![("plain".to_owned(), Features::NONE)];
    }
    let alone = Features::ALL_NAMED.iter().map(|&(feature, name)| (name.to_owned(), feature));
    [("plain".to_owned(), Features::NONE)]
        .into_iter()
        .chain(alone)
        .chain([("all".to_owned(), Features::ALL)])
        .collect()
}

/// Load every program of the BPF objects, in every variant, and compare what they cost with their budgets
#[derive(Parser)]
struct Args {
    /// Objects; by default those that this build made
    objects: Vec<String>,
    /// Only programs whose "variant program" contains this, such as "all portcullis_control"
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    match check(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(args: Args) -> Result<()> {
    let mut paths = args.objects;
    if paths.is_empty() {
        paths = OBJECTS.map(str::to_owned).to_vec();
    }
    println!(
        "{:<9} {:<21} {:>14} {:>16} {:>16} {:>12}",
        "variant", "program", "instructions", "verified", "machine code", "stack"
    );
    let mut broken = Vec::new();
    for path in paths {
        broken.extend(check_object(&path, &args.only).with_context(|| format!("the object {path}"))?);
    }
    for line in &broken {
        eprintln!("over budget: {line}");
    }
    if !broken.is_empty() {
        bail!("{} limits of the objects broken", broken.len());
    }
    Ok(())
}

/// The limits that an object's programs break.
fn check_object(path: &str, only: &str) -> Result<Vec<String>> {
    let bytes = fs::read(path).context("cannot be read")?;
    if bytes.is_empty() {
        bail!("could not be built: no BPF-capable toolchain; run\n  cargo xtask setup");
    }
    let mut broken = Vec::new();
    let mut object = Object::parse(&bytes).context("is none")?;
    let panics: Vec<_> = object
        .functions
        .values()
        .map(|function| function.name.as_str())
        .filter(|name| panics(name))
        .collect();
    if !panics.is_empty() {
        broken.push(format!("a panic can be reached: {path} contains {}", panics.join(", ")));
    }
    let text_sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text_sections).context("has calls that lead nowhere")?;
    for (variant, features) in variants(&object) {
        let mut loader = EbpfLoader::new();
        loader.override_global("FEATURES", &features, false);
        let mut loaded = loader.load(&bytes).context("has maps that cannot be created")?;
        let mut programs: Vec<_> = loaded.programs_mut().collect();
        programs.sort_by_key(|(name, _)| *name);
        programs.retain(|(name, _)| format!("{variant} {name}").contains(only));
        for (name, program) in programs {
            let stack = object
                .programs
                .get(name)
                .and_then(|program| object.functions.get(&program.function_key()))
                .map_or(0, |function| stack_depth(&function.instructions));
            match load(program) {
                Ok(info) => broken.extend(over_budget(&variant, name, &info, stack)),
                Err(error) => broken.push(format!("{variant} {name}: {}", refusal(&error))),
            }
        }
    }
    Ok(broken)
}

/// Loads a program of a kind that the objects have.
fn load(program: &mut Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::Xdp(program) => {
            program.load()?;
            program.info()
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            program.info()
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Prints what a program costs; returns what of it is too much.
fn over_budget(variant: &str, name: &str, info: &ProgramInfo, stack: u32) -> Vec<String> {
    let Some(budget) = BUDGETS.iter().find(|budget| budget.program == name) else {
        return vec![format!("{name} has no budget; give it one in tests/src/bin/verify.rs")];
    };
    let instructions = info.size_translated().unwrap_or(0) / size_of::<bpf_insn>() as u32;
    let verified = info.verified_instruction_count().unwrap_or(0);
    let machine_code = info.size_jitted();
    println!(
        "{variant:<9} {name:<21} {:>14} {:>16} {:>16} {:>12}",
        format!("{instructions}/{}", budget.instructions),
        format!("{verified}/{}", budget.verified),
        format!("{machine_code}/{}", budget.machine_code),
        format!("{stack}/{}", budget.stack),
    );
    [
        ("instructions", instructions, budget.instructions),
        ("verified instructions", verified, budget.verified),
        ("bytes of machine code", machine_code, budget.machine_code),
        ("bytes of stack", stack, budget.stack),
    ]
    .into_iter()
    .filter(|(_, found, allowed)| found > allowed)
    .map(|(what, found, allowed)| format!("{variant} {name}: {found} {what}, {allowed} are allowed"))
    .collect()
}

/// Whether a function is one that Rust calls to panic. The linker drops what cannot be reached.
fn panics(function: &str) -> bool {
    ["panicking", "panic_", "rust_begin_unwind"].iter().any(|part| function.contains(part))
}

/// The end of the verifier's log holds the reason, the rest the way there.
fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.lines().collect();
            format!(
                "the verifier refuses it ({io_error}):\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            )
        }
        other => other.to_string(),
    }
}

/// `call` of a function of the same program.
const CALL: u8 = 0x85;
/// Loads 64 bits, among others the address of a function.
const LOAD_IMMEDIATE: u8 = 0x18;
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNC: u8 = 4;
const FRAME_POINTER: u8 = 10;
/// `add dst, immediate` and `mov dst, src`, of 64 bits.
const ADD_IMMEDIATE: u8 = 0x07;
const MOVE: u8 = 0xbf;

/// Bytes of stack of the deepest chain of calls, as the verifier adds them up: each frame in units of 32.
fn stack_depth(instructions: &[bpf_insn]) -> u32 {
    let starts: BTreeSet<usize> =
        std::iter::once(0).chain((0..instructions.len()).filter_map(|at| callee(instructions, at))).collect();
    // The verifier refuses recursion; the limit keeps a broken object from looping here.
    chain_depth(instructions, &starts, 0, 8)
}

fn chain_depth(instructions: &[bpf_insn], starts: &BTreeSet<usize>, start: usize, calls_left: u32) -> u32 {
    let end = starts.range(start + 1..).next().copied().unwrap_or(instructions.len());
    let deepest_callee = (start..end)
        .filter_map(|at| callee(instructions, at))
        .filter(|callee| calls_left > 0 && *callee != start)
        .map(|callee| chain_depth(instructions, starts, callee, calls_left - 1))
        .max()
        .unwrap_or(0);
    frame(&instructions[start..end]).next_multiple_of(32) + deepest_callee
}

/// The first instruction of the function that an instruction calls, or passes on to be called.
fn callee(instructions: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = &instructions[at];
    let is_call = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
    let is_address = instruction.code == LOAD_IMMEDIATE && instruction.src_reg() == PSEUDO_FUNC;
    let target = usize::try_from(at as i64 + 1 + i64::from(instruction.imm)).ok()?;
    ((is_call || is_address) && target < instructions.len()).then_some(target)
}

/// Bytes below the frame pointer that a function touches, directly or by a pointer made from it.
fn frame(instructions: &[bpf_insn]) -> u32 {
    let mut lowest = 0i32;
    for (at, instruction) in instructions.iter().enumerate() {
        // Classes of loads and stores through a register.
        let through = match instruction.code & 0x07 {
            0x01 => Some(instruction.src_reg()),
            0x02 | 0x03 => Some(instruction.dst_reg()),
            _ => None,
        };
        if through == Some(FRAME_POINTER) {
            lowest = lowest.min(i32::from(instruction.off));
        }
        let next = instructions.get(at + 1);
        let copies = instruction.code == MOVE && instruction.src_reg() == FRAME_POINTER;
        if let (true, Some(next)) = (copies, next)
            && next.code == ADD_IMMEDIATE
            && next.dst_reg() == instruction.dst_reg()
        {
            lowest = lowest.min(next.imm);
        }
    }
    lowest.unsigned_abs()
}

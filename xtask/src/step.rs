//! One step of a command: its name, what goes on in it, and how long it took.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace;

/// So many lines of a failed command's output are worth reading.
const LINES_SHOWN: usize = 40;

/// Runs a step whose output is shown as it comes.
pub fn step<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("▸ {name}");
    let started = Instant::now();
    let outcome = body();
    let mark = if outcome.is_ok() { "✔" } else { "✘" };
    println!("{mark} {name}: {:.1} s", started.elapsed().as_secs_f32());
    outcome
}

/// Runs a command whose output matters only when it fails, with a spinner on a terminal.
///
/// The whole output stays in `.tools/log/<log>.log`.
pub fn quiet(name: &str, log: &str, command: &mut Command) -> Result<()> {
    step(name, || {
        let folder = workspace::tools().join("log");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(format!("{log}.log"));
        let mut file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;

        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        // The command keeps the pipe's writing ends open, and this reader would never see the end.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let spinner = spinner();
        let mut lines = Vec::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            writeln!(file, "{line}")?;
            spinner.set_message(line.chars().take(90).collect::<String>());
            lines.push(line);
        }
        let status = child.wait()?;
        spinner.finish_and_clear();
        if !status.success() {
            let from = lines.len().saturating_sub(LINES_SHOWN);
            for line in &lines[from..] {
                eprintln!("    {line}");
            }
            bail!("{program} failed ({status}); all of its output is in {}", path.display());
        }
        Ok(())
    })
}

/// Runs a command whose output is shown as it comes.
pub fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { Err(anyhow!("{} ({status})", describe(command))) }
}

/// The command as one would type it.
pub fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program);
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    format!("{name} {}", words.join(" "))
}

fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {elapsed:>4} {msg:.dim}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

//! Following a drain to its end.

use std::{io::Write, time::Duration};

use serde_json::{Value, json};

use super::{
    Screen,
    client::{Call, Client, Failure},
};

const STEP: Duration = Duration::from_millis(250);

/// Shows progress until nothing is left or the deadline has cut the rest; the last answer, in which
/// `status.drain.tracked_flows_cut` says how many flows that were.
pub async fn follow(
    client: &Client,
    path: &str,
    mut answer: Value,
    screen: &mut Screen<impl Write, impl Write>,
) -> Result<Value, Failure> {
    let mut shown = String::new();
    let mut left_before = None;
    loop {
        let drain = &answer["status"]["drain"];
        if drain.is_null() {
            screen.end();
            return Err(Failure::Local("the drain was ended by another order".into()));
        }
        let left = drain["tracked_flows"].as_u64().unwrap_or(0);
        if drain["done"] == true {
            // What is left when the deadline passes is swept at once: what was seen before it counts.
            let cut = if answer["status"]["state"] == "down" { left_before.unwrap_or(left) } else { 0 };
            answer["status"]["drain"]["tracked_flows_cut"] = json!(cut);
            screen.end();
            return Ok(answer);
        }
        left_before = Some(left);
        let line = format!("{left} flows left, {} slots unsettled", drain["slots_unsettled"]);
        if line != shown {
            screen.progress(&line);
            shown = line;
        }
        tokio::time::sleep(STEP).await;
        answer = client.send(&Call::get(path)).await?;
    }
}

impl<O: Write, P: Write> Screen<O, P> {
    /// Progress is a courtesy: that it cannot be written stops nothing.
    fn progress(&mut self, line: &str) {
        let _ = if self.live {
            write!(self.progress, "\r\x1b[K{line}").and_then(|()| self.progress.flush())
        } else {
            writeln!(self.progress, "{line}")
        };
    }

    fn end(&mut self) {
        if self.live {
            let _ = write!(self.progress, "\r\x1b[K").and_then(|()| self.progress.flush());
        }
    }
}

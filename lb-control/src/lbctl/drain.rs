//! Following a drain to its end.

use std::{io::Write, time::Duration};

use serde_json::Value;

use super::{
    Screen,
    client::{Call, Client, Failure},
    show,
};

const STEP: Duration = Duration::from_millis(250);

/// Shows progress until nothing is left or the deadline has cut the rest; the last answer, in which
/// `status.drain.ended` says which.
pub async fn follow(
    client: &Client,
    path: &str,
    mut answer: Value,
    screen: &mut Screen<impl Write, impl Write>,
) -> Result<Value, Failure> {
    let mut shown = String::new();
    loop {
        let drain = &answer["status"]["drain"];
        if drain.is_null() {
            screen.end();
            return Err(Failure::Local("the drain was ended by another order".into()));
        }
        if drain["done"] == true {
            screen.end();
            return Ok(answer);
        }
        let line = show::drain_progress(drain);
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

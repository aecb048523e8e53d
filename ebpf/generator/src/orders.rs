//! Calls when they are asked for: between two of them whoever asks can do something to the process.

use std::io::{BufRead as _, Write as _};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::calls::{Number, repeat};

/// Makes the calls that each line of stdin asks for, `CALL COUNT`, and answers it with an empty line.
pub(crate) fn obey() -> anyhow::Result<Value> {
    let mut total = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read stdin")?;
        let (call, count) = line
            .split_once(' ')
            .with_context(|| format!("{line:?} is not `CALL COUNT`"))?;
        let number = Number::parse(call).map_err(anyhow::Error::msg)?;
        let count: u64 = count
            .parse()
            .with_context(|| format!("the count of {line:?}"))?;
        repeat(number.number(), count);
        total += count;
        let mut stdout = std::io::stdout();
        stdout
            .write_all(b"\n")
            .and_then(|()| stdout.flush())
            .context("cannot write to stdout")?;
    }
    Ok(json!({ "pid": std::process::id(), "total": total }))
}

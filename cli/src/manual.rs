//! `ebpf-hello completions` and `ebpf-hello man`: made from the command line itself. No root.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{args::Arguments, page};

/// The section of the manual for commands.
const NAME: &str = "ebpf-hello";

/// `completions`' command line.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell: `source <(ebpf-hello completions bash)`.
    #[arg(value_enum)]
    shell: Shell,
}

/// `man`'s command line.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The page of this command: `ebpf-hello man observe | man -l -`. Else the page of all.
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,
    /// Write all pages into this directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the completions.
pub(crate) fn completions(arguments: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), NAME, &mut script);
    page::print(&script).map(drop)
}

/// Prints a manual page, or writes all.
pub(crate) fn man(arguments: &ManArgs) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.dir {
        return clap_mangen::generate_to(command(), folder)
            .with_context(|| format!("--dir {}: cannot write the pages", folder.display()));
    }
    let mut all = command();
    let command = match &arguments.command {
        None => all,
        Some(name) => {
            // Built, a command knows the flags it shares with all and its full name.
            all.build();
            let names = names(&all);
            match all.find_subcommand(name) {
                Some(found) => found.clone().display_name(format!("{NAME}-{name}")),
                None => bail!(
                    "there is no command `{name}`; expected one of {}",
                    names.join(", ")
                ),
            }
        }
    };
    let mut roff = Vec::new();
    Man::new(command)
        .render(&mut roff)
        .context("cannot make the page")?;
    page::print(&roff).map(drop)
}

fn command() -> Command {
    Arguments::command()
}

fn names(command: &Command) -> Vec<String> {
    command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect()
}

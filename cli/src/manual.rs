//! `ebpf-hello completions` and `ebpf-hello man`: made from the command line itself. No root.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{args::Arguments, page};

/// The command's name, as it is typed.
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

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use ebpf_hello_policy::Arch;

    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CLI.md");
    const HEAD: &str = "# The command line\n\n\
        What `--help` says of each command. Generated: `UPDATE=1 cargo test -p ebpf-hello manual` writes it.\n";

    fn page() -> String {
        let mut all = command().term_width(100).disable_version_flag(true);
        all.build();
        let mut page = HEAD.to_owned();
        let commands: Vec<_> = all.get_subcommands().cloned().collect();
        for mut command in [all].into_iter().chain(commands) {
            let help = command.render_long_help().to_string();
            let name = command.get_bin_name().unwrap_or(NAME).to_owned();
            let lines: Vec<_> = help.lines().map(str::trim_end).collect();
            page.push_str(&format!(
                "\n## {name}\n\n```text\n{}\n```\n",
                lines.join("\n")
            ));
        }
        // The one default that differs between machines.
        page.replace(
            &format!("[default: {}]", Arch::host()),
            "[default: this machine's]",
        )
    }

    #[test]
    fn the_page_of_the_command_line_is_what_help_says() {
        let (path, page) = (Path::new(PAGE), page());
        if env::var_os("UPDATE").is_some() {
            fs::write(path, &page).unwrap();
        }
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/CLI.md differs from --help: `UPDATE=1 cargo test -p ebpf-hello manual` writes it again"
        );
    }
}

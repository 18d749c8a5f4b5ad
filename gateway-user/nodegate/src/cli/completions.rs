//! `nodegate completions`

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate completions bash > /etc/bash_completion.d/nodegate
  nodegate completions zsh > \"${fpath[1]}/_nodegate\"

Exit status: 0 success.")]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "nodegate", &mut std::io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}

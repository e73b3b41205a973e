//! The `rsm` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match rsm::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(rsm::cli::colour_wanted());
            ExitCode::from(error.exit_code())
        }
    }
}

//! The `rsm` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match rsm::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(rsm::cli::use_color());
            ExitCode::from(error.exit_code())
        }
    }
}

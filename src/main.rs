//! The `rsm` command.
fn main() {
    let home = rsm::paths::Home::from_env().unwrap();
    match std::env::args().nth(1).as_deref() {
        Some("keeper") => {
            if let Err(e) = rsm::keeper::main(&home, false) {
                eprintln!("error: {e}");
                std::process::exit(1)
            }
        }
        Some("daemon") => {
            let _ = rsm::daemon::main(&home);
        }
        _ => {}
    }
}

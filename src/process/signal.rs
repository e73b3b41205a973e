//! Signals by name.

use nix::sys::signal::Signal;

/// The highest signal number, real-time ones included.
const HIGHEST: i32 = 64;

/// The number of a signal, said as `SIGUSR2`, `usr2` or `12`.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=HIGHEST).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse("SIGUSR2"), Some(libc::SIGUSR2));
        assert_eq!(parse("term"), Some(libc::SIGTERM));
        assert_eq!(parse("40"), Some(40));
        for none in ["SIGNOTHING", "", "0", "65", "-9", "SIG"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}

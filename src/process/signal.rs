//! Signals by name and number, real-time ones included.

use nix::sys::signal::Signal;

/// The number of a signal, given as `SIGUSR2`, `usr2`, `12` or `RTMIN+3`. The numbers below SIGRTMIN that the
/// C library reserves are not valid.
pub fn parse(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse() {
        return is_valid(number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    parse_realtime(name).or_else(|| by_name(name))
}

fn is_valid(number: i32) -> bool {
    Signal::try_from(number).is_ok() || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number)
}

fn by_name(name: &str) -> Option<i32> {
    // Older names that kill(1) accepts.
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn parse_realtime(name: &str) -> Option<i32> {
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => (libc::SIGRTMIN(), offset),
        (None, Some(offset)) => (libc::SIGRTMAX(), offset),
        (None, None) => return None,
    };
    let offset: i32 = match offset {
        "" => 0,
        signed if signed.starts_with(['+', '-']) => signed.parse().ok()?,
        _ => return None, // a number without a sign, which `parse` would accept
    };
    let number = base.checked_add(offset)?;
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a signal; `signal 99` for a number that has none.
    fn name(number: i32) -> String {
        if let Ok(signal) = Signal::try_from(number) {
            return signal.as_str().to_owned();
        }
        let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        if !(first..=last).contains(&number) {
            return format!("signal {number}");
        }
        // Relative to the nearer limit, as kill(1) lists them.
        match (number - first, last - number) {
            (0, _) => "SIGRTMIN".to_owned(),
            (_, 0) => "SIGRTMAX".to_owned(),
            (above, below) if above <= below => format!("SIGRTMIN+{above}"),
            (_, below) => format!("SIGRTMAX-{below}"),
        }
    }

    #[test]
    fn parses_all_spellings() {
        for text in ["SIGUSR2", "usr2", "sigUsr2", " USR2 ", "12"] {
            assert_eq!(parse(text), Some(libc::SIGUSR2), "{text}");
        }
        assert_eq!(parse("iot"), Some(libc::SIGABRT));
        assert_eq!(parse("40"), Some(40));
    }

    #[test]
    fn rejects_invalid_signals() {
        for text in ["", "SIG", "0", "-9", "32", "65", "SIGNOTHING", "RTMIN3", "RTMIN-1", "RTMAX+1", "9x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_round_trip() {
        let sendable: Vec<i32> = (0..100).filter(|number| is_valid(*number)).collect();
        assert!(sendable.len() > 60);
        for number in sendable {
            assert_eq!(parse(&name(number)), Some(number));
        }
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
        assert_eq!(name(libc::SIGRTMAX() - 1), "SIGRTMAX-1");
        assert_eq!(name(99), "signal 99");
    }
}

//! Fields of `/proc/PID/status` (`proc_pid_status(5)`).

/// The value of a field such as `Uid`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    status.lines().find_map(value)
}

/// Real and effective user of a process.
pub fn user_ids(pid: i32) -> Option<[u32; 2]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut ids = field(&status, "Uid")?.split_ascii_whitespace().map(str::parse);
    Some([ids.next()?.ok()?, ids.next()?.ok()?])
}

/// The effective capabilities, as a mask of `1 << CAP_x`.
pub fn effective_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff")?, 16).ok()
}

/// Whether a field that contains a set of signals (`SigCgt`, `SigIgn`) contains this one.
pub fn has_signal(status: &str, name: &str, signal: i32) -> bool {
    let mask = field(status, name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

//! Language runtimes, recognized by the name of a program.

/// A runtime that rsm treats specially.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Node itself.
    Node,
    /// tsx, which runs TypeScript in Node.
    Tsx,
    /// Another program that runs scripts in Node, such as ts-node.
    NodeWrapper,
    /// Bun, which has Node's IPC channel, but not its options.
    Bun,
    /// Any version of Python.
    Python,
}

/// The runtime of a program, given as a name or path; `None` for other programs.
pub fn runtime_of(program: &str) -> Option<Runtime> {
    match program.rsplit('/').next().unwrap_or(program) {
        "node" | "nodejs" => Some(Runtime::Node),
        "tsx" => Some(Runtime::Tsx),
        "ts-node" | "babel-node" | "coffee" | "nodemon" => Some(Runtime::NodeWrapper),
        "bun" => Some(Runtime::Bun),
        name if name.starts_with("python") => Some(Runtime::Python),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_is_recognized_by_file_name() {
        assert_eq!(runtime_of("/usr/bin/nodejs"), Some(Runtime::Node));
        assert_eq!(runtime_of("python3.12"), Some(Runtime::Python));
        assert_eq!(runtime_of("ts-node"), Some(Runtime::NodeWrapper));
        assert_eq!(runtime_of("/opt/mynode"), None);
        assert_eq!(runtime_of("/opt/node/bin/app"), None);
    }
}

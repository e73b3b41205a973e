//! The port of Node's inspector (`--inspect`): each instance of an app gets its own, as with PM2.

use super::Instance;
use crate::spec::{EnvVars, Launcher, Runtime, runtime_of};

/// Flags that start the inspector; all take `=[HOST:]PORT`.
const START_FLAGS: [&str; 3] = ["--inspect", "--inspect-brk", "--inspect-wait"];
/// Flags that only set its address.
const ADDRESS_FLAGS: [&str; 2] = ["--inspect-port", "--debug-port"];
const DEFAULT_PORT: u16 = 9229;

/// Where the inspector of an app listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inspector {
    /// With a colon at its end; empty for the default.
    host: String,
    port: u16,
}

/// The port of an instance's inspector, if it is started with one.
pub fn inspector_port(instance: &Instance, env: &EnvVars) -> Option<u16> {
    of_instance(instance, env).map(|inspector| inspector.port)
}

/// The flag that gives an instance an inspector port of its own; `None` for the first instance.
pub fn inspector_flag(instance: &Instance, env: &EnvVars) -> Option<String> {
    let Inspector { host, port } = of_instance(instance, env).filter(|_| instance.number() > 0)?;
    Some(format!("--inspect-port={host}{port}"))
}

fn of_instance(instance: &Instance, env: &EnvVars) -> Option<Inspector> {
    let Launcher::Interpreter { program, args } = &instance.spec().launcher else { return None };
    if runtime_of(program) != Some(Runtime::Node) {
        return None;
    }
    let options = env.get("NODE_OPTIONS").map(String::as_str).unwrap_or_default();
    let inspector = of_flags(options.split_whitespace().chain(args.iter().map(String::as_str)))?;
    let port = u32::from(inspector.port) + instance.number();
    Some(Inspector { port: u16::try_from(port).ok()?, ..inspector })
}

/// The inspector that flags start. Later flags override earlier ones; with port 0, each instance has its own anyway.
fn of_flags<'a>(flags: impl Iterator<Item = &'a str>) -> Option<Inspector> {
    let (mut starts, mut inspector) = (false, Inspector { host: String::new(), port: DEFAULT_PORT });
    for flag in flags {
        let (name, address) =
            flag.split_once('=').map_or((flag, None), |(name, address)| (name, Some(address)));
        starts |= START_FLAGS.contains(&name);
        if let Some(address) =
            address.filter(|_| START_FLAGS.contains(&name) || ADDRESS_FLAGS.contains(&name))
        {
            let (host, port) = address.rsplit_once(':').map_or(("", address), |(host, port)| (host, port));
            match port.parse() {
                Ok(port) => inspector.port = port,
                Err(_) if host.is_empty() => {
                    inspector.host = format!("{address}:");
                    continue;
                }
                Err(_) => return None,
            }
            if !host.is_empty() {
                inspector.host = format!("{host}:");
            }
        }
    }
    Some(inspector).filter(|inspector| starts && inspector.port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_address_in_flags() {
        let found =
            |flags: &str| of_flags(flags.split_whitespace()).map(|it| format!("{}{}", it.host, it.port));
        for (flags, expected) in [
            ("--inspect", Some("9229")),
            ("--inspect-brk=9300", Some("9300")),
            ("--inspect=127.0.0.1:9300", Some("127.0.0.1:9300")),
            ("--inspect=0.0.0.0", Some("0.0.0.0:9229")),
            ("--inspect=[::1]:9300", Some("[::1]:9300")),
            ("--inspect --inspect-port=9400 --max-old-space-size=100", Some("9400")),
            ("--inspect=9300 --inspect=9301", Some("9301")),
            ("--inspect-port=9400", None),
            ("--inspect=0", None),
            ("--max-old-space-size=100", None),
        ] {
            assert_eq!(found(flags).as_deref(), expected, "{flags}");
        }
    }
}

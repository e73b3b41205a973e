//! Addresses of listening sockets, distinguished as the kernel does when it groups sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Length of the shortest IPv6 address that the kernel accepts: without a scope id (`SIN6_LEN_RFC2133`).
const MIN_SOCKADDR_V6: usize = 24;

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP, or multipath TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// An address that a program listens on. Sockets of one address and one user form one group in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Transport protocol.
    pub protocol: Protocol,
    /// IP address, port and, for a link-local address, scope id.
    pub socket: SocketAddr,
    /// Whether an IPv6 socket refuses IPv4. The kernel groups it apart from sockets that accept both.
    #[serde(alias = "only_v6")]
    pub v6_only: bool,
}

impl Address {
    /// Address of a socket. `v6_only` is ignored for IPv4.
    pub fn new(protocol: Protocol, socket: SocketAddr, v6_only: bool) -> Self {
        // A socket is not bound to its flow label.
        let socket = match socket {
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
            v4 => v4,
        };
        Self { protocol, socket, v6_only: v6_only && socket.is_ipv6() }
    }

    /// Port number.
    pub fn port(&self) -> u16 {
        self.socket.port()
    }

    /// Whether a client can reach sockets of both addresses by the same destination.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let any_or_equal = |a: IpAddr, b: IpAddr| a.is_unspecified() || b.is_unspecified() || a == b;
        let both = |own: Option<IpAddr>, other: Option<IpAddr>| {
            own.zip(other).is_some_and(|(own, other)| any_or_equal(own, other))
        };
        self.protocol == other.protocol
            && self.port() == other.port()
            && (both(self.ipv4(), other.ipv4())
                || both(self.ipv6(), other.ipv6()) && !self.is_other_link(other))
    }

    /// The IPv4 address that it accepts connections to, if any.
    fn ipv4(&self) -> Option<IpAddr> {
        match self.socket.ip().to_canonical() {
            IpAddr::V6(v6) if v6.is_unspecified() && !self.v6_only => Some(Ipv4Addr::UNSPECIFIED.into()),
            ip => ip.is_ipv4().then_some(ip),
        }
    }

    /// The IPv6 address that it accepts connections to, if any.
    fn ipv6(&self) -> Option<IpAddr> {
        Some(self.socket.ip().to_canonical()).filter(IpAddr::is_ipv6)
    }

    /// Whether both are link-local addresses of different links.
    fn is_other_link(&self, other: &Self) -> bool {
        let scope = |address: &Self| match address.socket {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        scope(self) != 0 && scope(other) != 0 && scope(self) != scope(other)
    }

    /// Whether a client can connect over IPv4 from any address of 127/8.
    pub(super) fn accepts_ipv4(&self) -> bool {
        match self.socket {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(v6) => v6.ip().is_unspecified() && !self.v6_only,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// Parses a configured TCP address: `127.0.0.1:3000`, `[::1]:3000`, or only a port for all addresses of
    /// both families.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
        let all_addresses = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match port.map(all_addresses).or_else(|_| text.parse::<SocketAddr>()) {
            Ok(socket) if socket.port() == 0 => Err(format!("{text}: port 0 is not allowed")),
            Ok(socket) => Ok(Self::new(Protocol::Tcp, socket, false)),
            Err(_) => Err(format!("invalid address {text}: expected 0.0.0.0:3000, [::1]:3000 or 3000")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(out, "{}", self.socket),
            Protocol::Udp => write!(out, "{} (udp)", self.socket),
        }
    }
}

/// Parses a `sockaddr` read from a program's memory. `None` if it is not an internet address or incomplete: the
/// kernel reports the error then.
pub(super) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let word = |offset: usize| <[u8; 4]>::try_from(bytes.get(offset..offset + 4)?).ok();
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            bytes.get(..size_of::<libc::sockaddr_in>())?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(word(4)?)), port))
        }
        libc::AF_INET6 => {
            let ip = <[u8; 16]>::try_from(bytes.get(8..MIN_SOCKADDR_V6)?).ok()?;
            let scope = word(MIN_SOCKADDR_V6).map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// Parses the `sockaddr` of a Unix socket: its path, or `@` and its abstract name. `None` for other families, and if the
/// kernel chooses the name.
pub(super) fn parse_unix(bytes: &[u8]) -> Option<String> {
    let (family, name) = bytes.split_at_checked(2)?;
    if i32::from(u16::from_ne_bytes(family.try_into().ok()?)) != libc::AF_UNIX || name.is_empty() {
        return None;
    }
    Some(match name {
        [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name)),
        path => String::from_utf8_lossy(path.split(|byte| *byte == 0).next()?).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(scope: u32) -> Vec<u8> {
        let mut bytes = vec![10, 0, 0x1f, 0x90, 9, 9, 9, 9];
        bytes.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(scope.to_ne_bytes());
        bytes
    }

    #[test]
    fn parses_sockaddr_of_both_families() {
        let v4 = [2, 0, 0x0b, 0xb8, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&v4), Some("127.0.0.1:3000".parse().unwrap()));
        assert_eq!(parse(&v6(3)), Some(SocketAddrV6::new("fe80::1".parse().unwrap(), 8080, 0, 3).into()));
        assert_eq!(parse(&v6(3)[..24]), Some("[fe80::1]:8080".parse().unwrap()), "without scope");
    }

    #[test]
    fn rejects_short_sockaddr_and_other_families() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[2, 0, 0, 80, 1, 2, 3]), None);
        assert_eq!(parse(&v6(0)[..23]), None);
        assert_eq!(parse(b"\x01\0/run/app.sock"), None);
        assert_eq!(parse_unix(b"\x01\0/run/app.sock\0rest").as_deref(), Some("/run/app.sock"));
        assert_eq!(parse_unix(b"\x01\0\0app").as_deref(), Some("@app"));
        assert_eq!(parse_unix(b"\x01\0"), None, "chosen by the kernel");
        assert_eq!(parse_unix(b"\x02\0\x0b\xb8"), None);
        assert_eq!(parse(&[0; 16]), None);
    }

    #[test]
    fn parses_configured_addresses() {
        let display = |text: &str| text.parse().map(|address: Address| address.to_string());
        assert_eq!(display("3000").unwrap(), "[::]:3000");
        assert_eq!(display(":3000").unwrap(), "[::]:3000");
        assert_eq!(display("127.0.0.1:80").unwrap(), "127.0.0.1:80");
        assert_eq!(display("[::1]:80").unwrap(), "[::1]:80");
        for invalid in ["", "localhost:80", "70000", "1.2.3.4", "0", "1.2.3.4:0"] {
            assert!(display(invalid).unwrap_err().contains(invalid), "{invalid}");
        }
    }

    #[test]
    fn addresses_overlap_if_a_destination_matches_both() {
        let tcp = |text: &str, v6_only| Address::new(Protocol::Tcp, text.parse().unwrap(), v6_only);
        let overlap = |a: &str, b: &str| {
            let (a, b) = (tcp(a, false), tcp(b, false));
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        for pair in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80"),
        ] {
            assert!(overlap(pair.0, pair.1), "{pair:?}");
        }
        for pair in [
            ("0.0.0.0:80", "127.0.0.1:81"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("[::1]:80", "0.0.0.0:80"),
            ("[fe80::1%2]:80", "[fe80::1%3]:80"),
        ] {
            assert!(!overlap(pair.0, pair.1), "{pair:?}");
        }
        assert!(!tcp("[::]:80", true).overlaps(&tcp("0.0.0.0:80", false)));
        assert!(tcp("[::]:80", true).overlaps(&tcp("[::]:80", false)));
        let udp = Address::new(Protocol::Udp, "0.0.0.0:80".parse().unwrap(), false);
        assert!(!udp.overlaps(&tcp("0.0.0.0:80", false)));
    }

    #[test]
    fn equality_matches_kernel_groups() {
        let tcp = |text: &str, v6_only| Address::new(Protocol::Tcp, text.parse().unwrap(), v6_only);
        assert_eq!(tcp("0.0.0.0:80", true), tcp("0.0.0.0:80", false));
        assert_ne!(tcp("[::]:80", true), tcp("[::]:80", false));
        assert_ne!(tcp("[::]:80", true), tcp("[::1]:80", true));
        let flow = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 7, 0).into();
        assert_eq!(Address::new(Protocol::Tcp, flow, false), tcp("[::1]:80", false));
        assert_eq!(tcp("[::]:80", false).to_string(), "[::]:80");
        let udp = Address::new(Protocol::Udp, "0.0.0.0:53".parse().unwrap(), false);
        assert_eq!(udp.to_string(), "0.0.0.0:53 (udp)");
    }
}

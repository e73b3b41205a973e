//! Addresses as the kernel groups sockets by them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shortest IPv6 address that the kernel takes (`SIN6_LEN_RFC2133`): without a scope.
const MIN_SOCKADDR_V6: usize = 24;

/// What travels over a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Where a program listens. Sockets of one address, and of one user, are one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// What travels.
    pub protocol: Protocol,
    /// Address, port and, for link-local ones, scope.
    pub socket: SocketAddr,
    /// An IPv6 socket that takes no IPv4: a group apart from that which does.
    #[serde(alias = "only_v6")]
    pub v6_only: bool,
}

impl Address {
    /// Of a socket of this protocol. `only_v6` counts for IPv6 alone.
    pub fn new(protocol: Protocol, socket: SocketAddr, only_v6: bool) -> Self {
        // The flow label is no part of what a socket is bound to.
        let socket = match socket {
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
            v4 => v4,
        };
        Self { protocol, socket, v6_only: only_v6 && socket.is_ipv6() }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.socket.port()
    }
}

impl FromStr for Address {
    type Err = String;

    /// A TCP address as configured: `127.0.0.1:3000`, `[::1]:3000`, or a port alone for all addresses of
    /// both families.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
        let all = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match port.map(all).or_else(|_| text.parse::<SocketAddr>()) {
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

/// What a `sockaddr` in a program's memory says; `None` for what is no internet address, or not
/// a whole one: the kernel shall judge that.
pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let word = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok();
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
    fn addresses_are_read_from_memory() {
        let v4 = [2, 0, 0x0b, 0xb8, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse(&v4), Some("127.0.0.1:3000".parse().unwrap()));
        assert_eq!(parse(&v6(3)), Some(SocketAddrV6::new("fe80::1".parse().unwrap(), 8080, 0, 3).into()));
        assert_eq!(parse(&v6(3)[..24]), Some("[fe80::1]:8080".parse().unwrap()), "without scope");
    }

    #[test]
    fn what_is_cut_off_or_of_another_family_is_left_to_the_kernel() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[2, 0, 0, 80, 1, 2, 3]), None);
        assert_eq!(parse(&v6(0)[..23]), None);
        assert_eq!(parse(b"\x01\0/run/app.sock"), None);
        assert_eq!(parse(&[0; 16]), None);
    }

    #[test]
    fn addresses_are_configured_in_words() {
        let shown = |text: &str| text.parse().map(|address: Address| address.to_string());
        assert_eq!(shown("3000").unwrap(), "[::]:3000");
        assert_eq!(shown(":3000").unwrap(), "[::]:3000");
        assert_eq!(shown("127.0.0.1:80").unwrap(), "127.0.0.1:80");
        assert_eq!(shown("[::1]:80").unwrap(), "[::1]:80");
        for wrong in ["", "localhost:80", "70000", "1.2.3.4", "0", "1.2.3.4:0"] {
            assert!(shown(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_what_the_kernel_tells_apart() {
        let of = |text: &str, only_v6| Address::new(Protocol::Tcp, text.parse().unwrap(), only_v6);
        assert_eq!(of("0.0.0.0:80", true), of("0.0.0.0:80", false));
        assert_ne!(of("[::]:80", true), of("[::]:80", false));
        assert_ne!(of("[::]:80", true), of("[::1]:80", true));
        let flow = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 7, 0).into();
        assert_eq!(Address::new(Protocol::Tcp, flow, false), of("[::1]:80", false));
        assert_eq!(of("[::]:80", false).to_string(), "[::]:80");
        let udp = Address::new(Protocol::Udp, "0.0.0.0:53".parse().unwrap(), false);
        assert_eq!(udp.to_string(), "0.0.0.0:53 (udp)");
    }
}

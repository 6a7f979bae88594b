//! Where the endpoint listens: an address of the network, or a socket in the file system.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `ADDRESS:PORT`.
    Network(SocketAddr),
    /// `unix:/PATH`.
    Unix(PathBuf),
}

impl Address {
    /// Where to reach one that listens here: who listens on every address can be reached on
    /// loopback.
    #[must_use]
    pub fn reachable(self) -> Self {
        match self {
            Self::Network(mut address) if address.ip().is_unspecified() => {
                match address {
                    SocketAddr::V4(_) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                    SocketAddr::V6(_) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                }
                Self::Network(address)
            }
            address => address,
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() && !path.ends_with('/') => {
                Ok(Self::Unix(PathBuf::from(path)))
            }
            Some(_) => Err(bad()),
            None => text.parse().map(Self::Network).map_err(|_| bad()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address.
#[derive(Debug, Error)]
#[error(
    "`{0}` is no address to listen on: write ADDRESS:PORT as in 127.0.0.1:8099, unix:/PATH, or `off`"
)]
pub struct BadAddress(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_shown() {
        for text in ["127.0.0.1:8099", "[::1]:1", "unix:/run/freshcreds/health.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "8099", "localhost:8099", "unix:", "unix:health.sock", "unix:/run/"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.7:1", "10.0.0.7:1")]
        {
            let address: Address = listens.parse().unwrap();
            assert_eq!(address.reachable().to_string(), reached);
        }
    }
}

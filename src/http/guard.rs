//! Lets in who asks for us by a name that is ours.
//!
//! A page of a stranger's can make a browser ask any address, under a name of the
//! stranger's that leads here ("DNS rebinding"), and then read the answer. The browser says
//! which name it went by, so a name that is not ours is refused. An address cannot be made to
//! lead elsewhere, so every address is let in.

use std::net::IpAddr;

use hyper::{HeaderMap, Uri, Version, header};

/// By which names we are asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// Besides addresses and `localhost`; nothing is refused without it.
    names: Option<Vec<String>>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not say whom it asks, or not in a way that can be read.
    NoHost,
    /// It asks somebody else.
    Stranger,
}

impl Guard {
    /// Lets in who asks for an address, `localhost`, or one of these names.
    pub(super) fn of_names(names: &[String]) -> Self {
        let names = names.iter().map(|name| name.trim_end_matches('.').to_owned());
        Self { names: Some(names.collect()) }
    }

    /// Whether a request is for us.
    pub(super) fn check(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (first, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(Refusal::NoHost);
        }
        let host = match (uri.host(), first) {
            // The one in the request line wins: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
            (Some(host), _) => host,
            (None, Some(value)) => without_port(value.to_str().map_err(|_| Refusal::NoHost)?),
            // Before 1.1 there was no such header, and no browser speaks that.
            (None, None) if version < Version::HTTP_11 => return Ok(()),
            (None, None) => return Err(Refusal::NoHost),
        };
        let Some(names) = &self.names else { return Ok(()) };
        let host = host.trim_end_matches('.');
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_ours = bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || names.iter().any(|name| name.eq_ignore_ascii_case(host));
        if is_ours { Ok(()) } else { Err(Refusal::Stranger) }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Not the last part of a bare IPv6 address.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(guard: &Guard, version: Version, hosts: &[&str]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        guard.check(version, &Uri::from_static("/livez"), &headers)
    }

    #[test]
    fn addresses_and_our_names_are_let_in_and_others_are_not() {
        let guard = Guard::of_names(&["Health.example.com".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8099",
            "10.1.2.3:80",
            "[::1]:8099",
            "[::1]",
            "localhost",
            "LOCALHOST:8099",
            "localhost.",
            "health.example.com:8099",
        ] {
            assert_eq!(asked(&guard, Version::HTTP_11, &[host]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8099",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "health.example.com.evil.example",
            "x",
            "",
        ] {
            let refused = asked(&guard, Version::HTTP_11, &[host]);
            assert_eq!(refused, Err(Refusal::Stranger), "{host}");
        }
    }

    #[test]
    fn a_request_says_once_whom_it_asks() {
        let guard = Guard::of_names(&[]);
        assert_eq!(asked(&guard, Version::HTTP_11, &[]), Err(Refusal::NoHost));
        assert_eq!(asked(&guard, Version::HTTP_10, &[]), Ok(()));
        let twice = ["localhost", "evil.example"];
        assert_eq!(asked(&guard, Version::HTTP_11, &twice), Err(Refusal::NoHost));
        let elsewhere = Uri::from_static("http://evil.example/livez");
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, "localhost".parse().unwrap());
        let refused = guard.check(Version::HTTP_11, &elsewhere, &headers);
        assert_eq!(refused, Err(Refusal::Stranger));
    }

    #[test]
    fn no_browser_gets_to_a_socket_in_the_file_system() {
        assert_eq!(asked(&Guard::default(), Version::HTTP_11, &["freshcreds"]), Ok(()));
    }
}

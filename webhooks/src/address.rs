//! Where webhooks may go: to the public network, over TLS; elsewhere only if a setting says so.
//!
//! An address is looked at when an endpoint is registered, and again for each connection, on what the name stands
//! for at that moment: the address that was looked at is the one that is connected to. One that is written in the
//! URL itself is looked at for each request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;
use url::{Host, Url};

const URL_BYTES_MAX: usize = 2_000;

/// Other ways that an operator opens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Plain HTTP, and HTTPS, to this machine itself.
    pub loopback: bool,
    /// HTTPS to networks of one's own (RFC 1918, RFC 6598, RFC 4193) and to this machine.
    pub private: bool,
}

/// What a URL says, looked at.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub is_https: bool,
    pub host: Host<String>,
    pub port: u16,
    /// As in the header `Host`.
    pub authority: String,
    /// With the query.
    pub path: String,
}

impl Target {
    /// # Errors
    /// Webhooks are not sent to such a URL; why.
    pub fn parse(text: &str, rules: Rules) -> Result<Self, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("must be at most {URL_BYTES_MAX} bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("must have no spaces or control characters".to_owned());
        }
        let url = Url::parse(text).map_err(|error| format!("must be a URL: {error}"))?;
        let is_https = match url.scheme() {
            "https" => true,
            "http" if rules.loopback => false,
            _ => return Err("must begin with https://".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("must have no user, password or fragment".to_owned());
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err("must have a host".to_owned());
        };
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let target = Self { is_https, host: host.to_owned(), port, authority, path };
        match target.literal() {
            Some(address) if !rules.allow(is_https, address) => Err(refused(is_https)),
            _ => Ok(target),
        }
    }

    /// The address, if the host is one.
    fn literal(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    /// What may be connected to now.
    ///
    /// # Errors
    /// The name stands for nothing, or for nothing that is allowed.
    pub async fn addresses(&self, rules: Rules) -> Result<Vec<SocketAddr>, Unreachable> {
        match (&self.host, self.literal()) {
            (Host::Domain(name), _) => rules.look_up(self.is_https, name, self.port).await,
            // It was looked at when it was read.
            (_, address) => {
                Ok(address.into_iter().map(|address| SocketAddr::new(address, self.port)).collect())
            }
        }
    }

    /// The URL again, of what was looked at alone.
    pub fn uri(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

/// Looks names up, and leads only to addresses that may be connected to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looked {
    pub rules: Rules,
    pub is_https: bool,
}

impl Service<Name> for Looked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unreachable;
    type Future = BoxFuture<'static, Result<Self::Response, Unreachable>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { rules, is_https } = *self;
        // Whoever connects knows the port.
        async move { Ok(rules.look_up(is_https, name.as_str(), 0).await?.into_iter()) }.boxed()
    }
}

/// Why there is nothing to connect to.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("its name can't be looked up: {0}")]
    Unknown(String),
    #[error("its address {0}")]
    Refused(String),
}

fn refused(is_https: bool) -> String {
    match is_https {
        true => "must be one of the public network",
        false => "must be this machine's own, without TLS",
    }
    .to_owned()
}

impl Rules {
    async fn look_up(self, is_https: bool, name: &str, port: u16) -> Result<Vec<SocketAddr>, Unreachable> {
        let found = tokio::net::lookup_host((name, port)).await;
        let found = found.map_err(|error| Unreachable::Unknown(error.to_string()))?;
        let allowed: Vec<_> = found.filter(|address| self.allow(is_https, address.ip())).collect();
        if allowed.is_empty() { Err(Unreachable::Refused(refused(is_https))) } else { Ok(allowed) }
    }

    fn allow(self, is_https: bool, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match address.is_loopback() {
            true => self.loopback || is_https && self.private,
            false => is_https && (is_public(address) || self.private && is_own(address)),
        }
    }
}

/// Networks of one's own, but for what a machine is told about itself by its neighbours (link-local, and
/// with that where clouds keep their secrets).
fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || is_shared(v4) && v4 != Ipv4Addr::new(100, 100, 100, 200),
        IpAddr::V6(v6) => v6.is_unique_local() && v6 != Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    }
}

/// RFC 6598.
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b & 0xC0 == 64
}

/// By the registries of special-purpose addresses (RFC 6890 and its updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_special = a == 0
                || v4.is_private()
                || is_shared(v4)
                || v4.is_loopback()
                || v4.is_link_local()
                || (a, b, c) == (192, 0, 0)
                || (a, b, c) == (192, 88, 99)
                || v4.is_documentation()
                || a == 198 && b & 0xFE == 18
                || a >= 224
                // Where a cloud answers its machines, among public addresses.
                || v4 == Ipv4Addr::new(168, 63, 129, 16);
            !is_special
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            // All that is given out, without what stands for an IPv4 address or for nobody.
            let is_given_out = a & 0xE000 == 0x2000;
            let is_special =
                a == 0x2001 && (b < 0x0200 || b == 0x0DB8) || a == 0x2002 || a == 0x3FFF && b < 0x1000;
            is_given_out && !is_special
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: Rules = Rules { loopback: false, private: false };

    #[test]
    fn only_the_public_network_unless_it_is_said() {
        let open = Rules { loopback: true, private: true };
        for (host, own) in [
            ("127.0.0.1", true),
            ("2130706433", true),
            ("0x7f.1", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("100.64.0.1", true),
            ("[fd12::1]", true),
            ("[::ffff:10.0.0.1]", true),
            ("169.254.169.254", false),
            ("[::ffff:169.254.169.254]", false),
            ("[fe80::1]", false),
            ("[fd00:ec2::254]", false),
            ("100.100.100.200", false),
            ("168.63.129.16", false),
            ("0.0.0.0", false),
            ("[::]", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("[64:ff9b::7f00:1]", false),
            ("[2002:7f00:1::]", false),
            ("[2001:db8::1]", false),
            ("198.18.0.1", false),
        ] {
            let url = format!("https://{host}/hooks");
            assert!(Target::parse(&url, CLOSED).is_err(), "{host}");
            assert_eq!(Target::parse(&url, open).is_ok(), own, "{host} to who opens it");
        }
        for host in ["93.184.215.14", "[2606:2800:21f:cb07::1]", "shop.example.com", "shop.example.com:8443"]
        {
            assert!(Target::parse(&format!("https://{host}/a?b=c"), CLOSED).is_ok(), "{host}");
        }
    }

    #[test]
    fn only_tls_but_to_this_machine() {
        let loopback = Rules { loopback: true, private: false };
        for url in ["http://shop.example.com/", "http://127.0.0.1/", "ftp://shop.example.com/", "/hooks", ""]
        {
            assert!(Target::parse(url, CLOSED).is_err(), "{url}");
        }
        assert!(Target::parse("http://127.0.0.1:8000/", loopback).is_ok());
        assert!(Target::parse("https://127.0.0.1:8000/", loopback).is_ok());
        assert!(Target::parse("http://10.0.0.1/", Rules { loopback: true, private: true }).is_err());
        assert!(Target::parse("http://93.184.215.14/", loopback).is_err());
        for url in [
            "https://user@shop.example.com/",
            "https://shop.example.com/#a",
            "https://shop.example.com/\0",
            "https://",
        ] {
            assert!(Target::parse(url, loopback).is_err(), "{url:?}");
        }
        assert!(Target::parse(&format!("https://shop.example.com/{}", "a".repeat(2_000)), CLOSED).is_err());
    }

    /// A name that was harmless when it was registered may lead elsewhere later.
    #[tokio::test]
    async fn a_name_is_looked_at_each_time() {
        let target = Target::parse("https://localhost/", CLOSED).unwrap();
        assert!(matches!(target.addresses(CLOSED).await, Err(Unreachable::Refused(_))));
        let loopback = Rules { loopback: true, private: false };
        assert!(target.addresses(loopback).await.unwrap().iter().all(|address| address.ip().is_loopback()));
    }
}

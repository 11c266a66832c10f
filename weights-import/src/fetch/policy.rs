//! Which files and addresses a source may name, for programs that take sources from strangers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::FetchError;

/// What the writer of a source may reach through this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// Every file and every address: the source comes from the person who runs the program.
    #[default]
    Trusted,
    /// Data URIs and http(s), and what the rules allow beyond.
    Untrusted(SourceRules),
}

/// What untrusted sources may name beyond data URIs and public http(s) addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// `file://` URLs below this folder, after symbolic links are followed; none without it.
    pub files_below: Option<PathBuf>,
    /// Addresses of this machine and of private networks, and requests by a proxy of the environment, which would
    /// reach them unseen.
    pub private_addresses: bool,
}

impl SourcePolicy {
    /// Whether every address may be asked, by way of a proxy too.
    pub(crate) fn any_address(&self) -> bool {
        match self {
            Self::Trusted => true,
            Self::Untrusted(rules) => rules.private_addresses,
        }
    }

    /// The file that a bare path names.
    ///
    /// # Errors
    /// [`FetchError::ForbiddenPath`] where sources are not trusted.
    pub(crate) fn path(&self, path: &Path) -> Result<PathBuf, FetchError> {
        match self {
            Self::Trusted => Ok(path.to_owned()),
            Self::Untrusted(_) => Err(FetchError::ForbiddenPath { path: path.into() }),
        }
    }

    /// The file that a `file://` URL names.
    ///
    /// # Errors
    /// [`FetchError::ForbiddenFile`] when it does not lie below the allowed folder.
    pub(crate) fn file(&self, path: PathBuf) -> Result<PathBuf, FetchError> {
        let Self::Untrusted(rules) = self else { return Ok(path) };
        let below = rules.files_below.as_ref().and_then(|root| {
            let (root, found) = (root.canonicalize().ok()?, path.canonicalize().ok()?);
            found.starts_with(root).then_some(found)
        });
        // A file that is not there and one that may not be read look alike: nothing is told of the disk.
        below.ok_or(FetchError::ForbiddenFile { path })
    }

    /// The addresses of `name` (`host:port`) that may be asked.
    pub(crate) fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
        if self.any_address() {
            return Ok(found);
        }
        let open: Vec<_> = found.into_iter().filter(|at| is_public(at.ip())).collect();
        match open.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::PermissionDenied, PRIVATE)),
            false => Ok(open),
        }
    }
}

/// The reason that [`SourcePolicy::resolve`] gives.
pub(crate) const PRIVATE: &str = "its address is of this machine or a private network";

/// Whether an address is one of the public internet (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let s = v6.segments();
    // An IPv4 address in the clothes of version 6: mapped, NAT64, 6to4.
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Only 2000::/3 is given out; within it, Teredo (2001::/23) and documentation are special.
        [first, second, ..] => {
            (first & 0xe000) == 0x2000
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && first != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests;

//! Where coordinators are: as a person lists them, and as one that stands by names the one that leads.

use tonic::{Status, codegen::http::Uri, metadata::MetadataValue};

/// Metadata key of the leader's address in the refusal of a coordinator that stands by.
pub const LEADER: &str = "lockstep-leader";

/// Not the address of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a coordinator")]
pub struct WrongAddress(pub String);

/// The addresses of a list (`a:7070,http://b:7070`), each with its scheme and once, in their order; at least one.
///
/// # Errors
/// One of them is not `host:port` or `http://host:port`.
pub fn coordinators(list: &str) -> Result<Vec<String>, WrongAddress> {
    let mut found = Vec::new();
    for address in list.split(',').map(str::trim) {
        let url = with_scheme(address);
        let uri: Uri = url.parse().map_err(|_| WrongAddress(url.clone()))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
            return Err(WrongAddress(url));
        }
        if !found.contains(&url) {
            found.push(url);
        }
    }
    Ok(found)
}

/// `host:port` means `http://host:port`.
pub fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

/// Who leads, where whoever refused stands by and knows.
pub fn leader_of(status: &Status) -> Option<String> {
    status.metadata().get(LEADER)?.to_str().ok().map(str::to_owned)
}

/// Says in a refusal who leads.
pub fn name_leader(status: &mut Status, leader: &str) {
    // What is no text of a header is no address either.
    if let Ok(value) = MetadataValue::try_from(leader) {
        status.metadata_mut().insert(LEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_its_addresses_with_their_scheme_each_once() {
        assert_eq!(coordinators("a:7070, http://b:7070,a:7070").unwrap(), ["http://a:7070", "http://b:7070"]);
        for wrong in ["", "ftp://a", "a:7070,", "http://", "not a url", "a:7070,b c"] {
            assert!(coordinators(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_names_the_leader() {
        let mut status = Status::unavailable("standby");
        assert_eq!(leader_of(&status), None);
        name_leader(&mut status, "http://b:7070");
        assert_eq!(leader_of(&status).as_deref(), Some("http://b:7070"));
    }
}

//! `etcd://host:port[,host:port…]/name`, as it is typed.

use std::{fmt, str::FromStr};

/// Where coordinators that stand in for one another keep their journal. All keys are below the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStore {
    endpoints: Vec<String>,
    name: String,
}

impl EtcdStore {
    /// `host:port` of each member; at least one.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}/{}", self.endpoints.join(","), self.name)
    }
}

impl FromStr for EtcdStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WRITE: &str = "write `etcd://host:2379/name`, several members as `etcd://a:2379,b:2379,c:2379/name`";
        let rest = text.strip_prefix("etcd://").ok_or_else(|| format!("it does not begin with `etcd://`: {WRITE}"))?;
        let (members, name) = rest.split_once('/').unwrap_or((rest, ""));
        let name = name.trim_end_matches('/');
        if name.is_empty() {
            return Err(format!("it names no store: {WRITE}"));
        }
        // A slash would let the keys of one store lie among those of another.
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(format!("the name `{name}` holds more than letters, digits, `-`, `_` and `.`: {WRITE}"));
        }
        let endpoints: Vec<String> = members.split(',').map(|member| member.trim().to_owned()).collect();
        let wrong = endpoints.iter().find(|endpoint| {
            let port = endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            port.is_none_or(|port| port.parse::<u16>().is_err()) || endpoint.contains(['@', '?', '#'])
        });
        match wrong {
            Some(endpoint) => Err(format!("`{endpoint}` is not `host:port`: {WRITE}")),
            None => Ok(Self { endpoints, name: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_its_members_and_a_name() {
        let store: EtcdStore = "etcd://a:2379, b:2380/ranking/".parse().unwrap();
        assert_eq!((store.endpoints(), store.name()), (&["a:2379".to_owned(), "b:2380".to_owned()][..], "ranking"));
        assert_eq!(store.to_string(), "etcd://a:2379,b:2380/ranking");
        for (wrong, why) in [
            ("http://a:2379/x", "does not begin with `etcd://`"),
            ("etcd://a:2379", "names no store"),
            ("etcd://a/x", "`a` is not `host:port`"),
            ("etcd://a:2379,/x", "`` is not `host:port`"),
            ("etcd://me:secret@a:2379/x", "is not `host:port`"),
            ("etcd://a:2379/x y", "holds more than letters"),
            ("etcd://a:2379/x/runs", "holds more than letters"),
        ] {
            let error = wrong.parse::<EtcdStore>().unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}

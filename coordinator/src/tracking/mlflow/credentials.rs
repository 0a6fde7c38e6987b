//! Who we are to a tracking server.

use std::fmt;

use reqwest::header::HeaderValue;

use super::Trouble;

/// Who we are to the server. Never shown, never kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    None,
    Token(String),
    Password {
        user: String,
        password: String,
    },
}

impl Credentials {
    /// As MLflow's own clients are told: `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, else `MLFLOW_TRACKING_TOKEN`.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (set("MLFLOW_TRACKING_USERNAME"), set("MLFLOW_TRACKING_TOKEN")) {
            (Some(user), _) => Self::Password { user, password: set("MLFLOW_TRACKING_PASSWORD").unwrap_or_default() },
            (None, Some(token)) => Self::Token(token),
            (None, None) => Self::None,
        }
    }
}

impl Credentials {
    /// What no header takes would be found out with each request.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        match self {
            Self::Token(token) if HeaderValue::from_str(token).is_err() => Err(Trouble::Rejected(
                "MLFLOW_TRACKING_TOKEN holds a line break, or another character that no header takes".into(),
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no credentials",
            Self::Token(_) => "Token(…)",
            Self::Password { .. } => "Password(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let secret = Credentials::Password { user: "ann".into(), password: "hunter2".into() };
        assert_eq!(format!("{secret:?} {:?}", Credentials::Token("hunter2".into())), "Password(…) Token(…)");
    }
}

//! What a token (a JWT, RFC 7519) says of itself. Nobody vouches for it here: it shortens what the API server says, and
//! makes refusals understandable.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// The claims that are of use.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Claims {
    /// Seconds since 1970.
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    aud: Audiences,
    #[serde(default)]
    sub: String,
}

/// One, or several.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Audiences::Several(Vec::new())
    }
}

// === impl Claims ===

impl Claims {
    /// Those of a token; of one that is no JWT, none.
    pub(super) fn of(token: &str) -> Claims {
        let payload = token.split('.').nth(1).unwrap_or_default();
        URL_SAFE_NO_PAD
            .decode(payload)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    /// When the token ends.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        let seconds = Duration::try_from_secs_f64(self.exp?).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    }

    /// Whether it has ended.
    pub(super) fn has_expired(&self) -> bool {
        self.expires()
            .is_some_and(|expires| expires <= SystemTime::now())
    }

    /// The audiences it names, if this one is not among them.
    pub(super) fn other_audiences(&self, wanted: &str) -> Option<String> {
        let all = match &self.aud {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Several(several) => several,
        };
        if all.is_empty() || all.iter().any(|one| one == wanted) {
            return None;
        }
        let named: Vec<String> = all.iter().take(4).map(|one| brief(one)).collect();
        Some(named.join(", "))
    }

    /// Namespace and name of the ServiceAccount whose it says to be.
    pub(super) fn service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self
            .sub
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        let is_name = |text: &str| {
            (1..=253).contains(&text.len())
                && text.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
                })
        };
        (is_name(namespace) && is_name(name)).then_some((namespace, name))
    }
}

/// At most 80 characters, quoted: it is a stranger's text.
fn brief(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        Claims::of(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(json)))
    }

    #[test]
    fn a_service_accounts_token_says_whose_it_is_for_whom_and_until_when() {
        let claims = claims(
            r#"{"aud":["https://kubernetes.default.svc"],"exp":1795412647,"sub":"system:serviceaccount:shop:reader"}"#,
        );
        assert_eq!(claims.service_account(), Some(("shop", "reader")));
        assert_eq!(
            claims.other_audiences("https://kubernetes.default.svc"),
            None
        );
        assert_eq!(
            claims.other_audiences("ebpf-hello").as_deref(),
            Some("\"https://kubernetes.default.svc\"")
        );
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_412_647);
        assert_eq!(claims.expires(), Some(expires));
    }

    #[test]
    fn what_is_no_such_token_says_nothing_and_breaks_nothing() {
        for token in ["", ".", "a.b.c", "e30.e30.", "e30.bnVsbA.", "e30.W10."] {
            let claims = Claims::of(token);
            assert_eq!(claims.expires(), None, "{token}");
            assert!(!claims.has_expired());
            assert_eq!(claims.other_audiences("ebpf-hello"), None);
            assert_eq!(claims.service_account(), None);
        }
        for json in [
            r#"{"exp":-1}"#,
            r#"{"exp":1e300,"sub":"system:serviceaccount:a;rm:b"}"#,
            r#"{"sub":"system:serviceaccount::x"}"#,
            r#"{"sub":"alice"}"#,
        ] {
            let claims = claims(json);
            assert_eq!(claims.expires(), None, "{json}");
            assert_eq!(claims.service_account(), None, "{json}");
        }
        assert_eq!(
            claims(r#"{"aud":"one"}"#)
                .other_audiences("ebpf-hello")
                .as_deref(),
            Some("\"one\"")
        );
    }
}

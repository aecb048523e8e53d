//! Resume tokens: a place in a log, as a reader carries it. Opaque to the reader, authenticated, valid wherever
//! the log is served.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::log::{Log, Place};

/// First byte of a token.
const VERSION: u8 = 1;
/// Version, position, event.
const PLACE_LEN: usize = 1 + 8 + 4;
/// HMAC-SHA256, in full.
const TAG_LEN: usize = 32;
/// Characters of a token; longer ones are not looked at.
pub const TOKEN_LEN: usize = (PLACE_LEN + TAG_LEN) * 4 / 3;

/// What authenticates the tokens of a log: 32 random bytes, kept with the log.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

/// Why a token is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has another length.
    #[error("a resume token has {TOKEN_LEN} characters, this has {0}")]
    Length(usize),
    /// It has characters that no token has.
    #[error("a resume token is base64url, this is not")]
    Characters,
    /// Another version of the collector made it.
    #[error("the resume token is of version {0}, known is {VERSION}")]
    Version(u8),
    /// It was changed, or is another log's.
    #[error(
        "the resume token is not of this log: another collector's, or of a store that was replaced"
    )]
    Foreign,
}

/// The token of a place in a log.
pub fn encode(log: &dyn Log, place: Place) -> String {
    let mut bytes = Vec::with_capacity(PLACE_LEN + TAG_LEN);
    bytes.push(VERSION);
    bytes.extend(place.position.to_be_bytes());
    bytes.extend(place.event.to_be_bytes());
    let tag = hmac::sign(&log.token_key().hmac(), &signed(log, &bytes));
    bytes.extend(tag.as_ref());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place of a token.
///
/// # Errors
/// It is no token of this log.
pub fn decode(log: &dyn Log, token: &str) -> Result<Place, TokenError> {
    if token.len() != TOKEN_LEN {
        return Err(TokenError::Length(token.len()));
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| TokenError::Characters)?;
    let Some((place, tag)) = bytes.split_first_chunk::<PLACE_LEN>() else {
        return Err(TokenError::Length(token.len()));
    };
    let [version, p0, p1, p2, p3, p4, p5, p6, p7, e0, e1, e2, e3] = *place;
    if version != VERSION {
        return Err(TokenError::Version(version));
    }
    hmac::verify(&log.token_key().hmac(), &signed(log, place), tag)
        .map_err(|_| TokenError::Foreign)?;
    Ok(Place {
        position: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
        event: u32::from_be_bytes([e0, e1, e2, e3]),
    })
}

/// The log is part of what is signed, not of what is sent.
fn signed(log: &dyn Log, place: &[u8]) -> Vec<u8> {
    [b"ebpf-hello resume\0", log.id().as_bytes(), b"\0", place].concat()
}

// === impl TokenKey ===

impl TokenKey {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .expect("getrandom(2) does not fail once the system is up");
        TokenKey(bytes)
    }

    /// As it is kept with the log.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl From<[u8; 32]> for TokenKey {
    fn from(bytes: [u8; 32]) -> Self {
        TokenKey(bytes)
    }
}

/// Not its bytes.
impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Memory;

    const PLACE: Place = Place {
        position: u64::MAX - 7,
        event: 511,
    };

    #[test]
    fn a_token_is_its_place() {
        let log = Memory::default();
        let token = encode(&log, PLACE);
        assert_eq!(token.len(), TOKEN_LEN);
        assert_eq!(decode(&log, &token), Ok(PLACE));
        assert_eq!(
            decode(&log, &encode(&log, Place::default())),
            Ok(Place::default())
        );
    }

    #[test]
    fn a_changed_character_is_found_wherever_it_is() {
        let log = Memory::default();
        let token = encode(&log, PLACE);
        for at in 0..TOKEN_LEN {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let error = decode(&log, &changed).unwrap_err();
            assert!(
                matches!(error, TokenError::Version(_) | TokenError::Foreign),
                "{at}: {error}"
            );
        }
    }

    #[test]
    fn what_is_no_token_of_the_log_is_refused_with_its_reason() {
        let log = Memory::default();
        let token = encode(&log, PLACE);
        let other = Memory::default();
        assert_eq!(decode(&other, &token), Err(TokenError::Foreign));
        assert_eq!(decode(&log, ""), Err(TokenError::Length(0)));
        let long = "A".repeat(1 << 20);
        assert_eq!(decode(&log, &long), Err(TokenError::Length(1 << 20)));
        let odd = "=".repeat(TOKEN_LEN);
        assert_eq!(decode(&log, &odd), Err(TokenError::Characters));
        let zeros = "A".repeat(TOKEN_LEN);
        assert_eq!(decode(&log, &zeros), Err(TokenError::Version(0)));
        assert_eq!(format!("{:?}", TokenKey::random()), "TokenKey");
    }
}

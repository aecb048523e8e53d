//! Resume tokens: a place in a log, as a reader carries it. Sealed, and valid wherever the log is served.
//!
//! Sealed, not only signed: from the places of two tokens a reader could tell how much came in between, others'
//! events included.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::log::{Log, Place};

/// First byte of a token.
const VERSION: u8 = 2;
/// Position, event.
const PLACE_LEN: usize = 8 + 4;
/// ChaCha20-Poly1305 (RFC 8439).
const TAG_LEN: usize = 16;
const SEALED_LEN: usize = PLACE_LEN + TAG_LEN;
/// Characters of a token; longer ones are not looked at.
pub const TOKEN_LEN: usize = ((1 + aead::NONCE_LEN + SEALED_LEN) * 4).div_ceil(3);

/// What seals the tokens of a log: 32 random bytes, kept with the log.
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
    let mut nonce = [0; aead::NONCE_LEN];
    random(&mut nonce);
    let mut sealed = Vec::with_capacity(SEALED_LEN);
    sealed.extend(place.position.to_be_bytes());
    sealed.extend(place.event.to_be_bytes());
    log.token_key()
        .aead()
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context(log)),
            &mut sealed,
        )
        .expect("fails only past 256 GiB");
    URL_SAFE_NO_PAD.encode([&[VERSION][..], &nonce[..], &sealed[..]].concat())
}

/// The place of a token.
///
/// # Errors
/// It is no token of this log.
pub fn decode(log: &dyn Log, token: &str) -> Result<Place, TokenError> {
    if token.len() != TOKEN_LEN {
        return Err(TokenError::Length(token.len()));
    }
    let mut bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| TokenError::Characters)?;
    let Some((version, rest)) = bytes.split_first_mut() else {
        return Err(TokenError::Length(token.len()));
    };
    if *version != VERSION {
        return Err(TokenError::Version(*version));
    }
    let Some((nonce, sealed)) = rest.split_first_chunk_mut::<{ aead::NONCE_LEN }>() else {
        return Err(TokenError::Length(token.len()));
    };
    let place = log
        .token_key()
        .aead()
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(context(log)),
            sealed,
        )
        .map_err(|_| TokenError::Foreign)?;
    let &mut [p0, p1, p2, p3, p4, p5, p6, p7, e0, e1, e2, e3] = place else {
        return Err(TokenError::Foreign);
    };
    Ok(Place {
        position: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
        event: u32::from_be_bytes([e0, e1, e2, e3]),
    })
}

/// The log is part of what is authenticated, not of what is sent.
fn context(log: &dyn Log) -> Vec<u8> {
    [b"ebpf-hello resume\0", log.id().as_bytes()].concat()
}

fn random(bytes: &mut [u8]) {
    SystemRandom::new()
        .fill(bytes)
        .expect("getrandom(2) does not fail once the system is up");
}

// === impl TokenKey ===

impl TokenKey {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        random(&mut bytes);
        TokenKey(bytes)
    }

    /// As it is kept with the log.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&aead::CHACHA20_POLY1305, &self.0);
        LessSafeKey::new(key.expect("its keys have 32 bytes"))
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
            let is_found = matches!(
                error,
                TokenError::Version(_) | TokenError::Foreign | TokenError::Characters
            );
            assert!(is_found, "{at}: {error}");
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
        assert_ne!(token, encode(&log, PLACE), "nothing can be told from two");
        let zeros = "A".repeat(TOKEN_LEN);
        assert_eq!(decode(&log, &zeros), Err(TokenError::Version(0)));
        assert_eq!(format!("{:?}", TokenKey::random()), "TokenKey");
    }
}

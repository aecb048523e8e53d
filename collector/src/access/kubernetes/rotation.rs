//! When an authority is replaced, and how: three steps, each a node certificate's life after the one before.
//!
//! ```text
//! age            one certificate                    its key issues
//!   ▼ begin      its successor is trusted besides   the old key issues: agents hear of the new one as they renew
//! + life
//!   ▼ switch     both are trusted                   the new key issues
//! + life
//!   ▼ end        one certificate                    its key issues
//! ```
//!
//! Nothing is remembered but the certificates and keys: when a step is due is told by when the newest was made. So any
//! replica takes it, and one that was away takes the next.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::access::{
    AccessError, AuthorityPem,
    authority::{BACKDATE, COMMON_NAME, certificates, pem_of, public_key, system_time},
};

/// How long an authority issues, and how long its certificates last.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Age at which a successor is made.
    pub age: Duration,
    /// Life of a node's certificate.
    pub life: Duration,
}

/// An authority, and perhaps its successor's key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) authority: AuthorityPem,
    /// The key of a certificate that is trusted already and does not issue yet, PKCS #8 as PEM.
    pub(super) next: Option<Vec<u8>>,
}

/// One certificate of those that are trusted.
struct Member {
    der: CertificateDer<'static>,
    key: Vec<u8>,
    made: SystemTime,
    /// Whether a collector made it: what an operator put there is left alone.
    own: bool,
}

// === impl Rotation ===

impl Rotation {
    /// The next step, if it is due.
    ///
    /// # Errors
    /// What is kept is no authority.
    pub(super) fn step(
        &self,
        kept: &Kept,
        now: SystemTime,
        place: &str,
    ) -> Result<Option<(Kept, &'static str)>, AccessError> {
        let members = members(&kept.authority.certificates, place)?;
        // A key without certificate is told by whoever reads it as an authority.
        let Some(issuer) = find(&members, &kept.authority.key, place)?.filter(|issuer| issuer.own)
        else {
            return Ok(None);
        };
        let is_past = |since: SystemTime, wait: Duration| now >= since + wait;
        if let Some(key) = &kept.next {
            let Some(next) =
                find(&members, key, place)?.filter(|next| is_past(next.made, self.life))
            else {
                return Ok(None);
            };
            tracing::debug!(made = ?next.made, "the successor issues");
            let authority = AuthorityPem {
                certificates: kept.authority.certificates.clone(),
                key: key.clone(),
            };
            return Ok(Some((
                Kept {
                    authority,
                    next: None,
                },
                "the new authority issues",
            )));
        }
        let is_over = |member: &&Member| {
            member.own && member.made < issuer.made && is_past(issuer.made, self.life * 2)
        };
        if members.iter().any(|member| is_over(&member)) {
            let left = members.iter().filter(|member| !is_over(member));
            let authority = AuthorityPem {
                certificates: pem_of(left.map(|member| &member.der)),
                key: kept.authority.key.clone(),
            };
            return Ok(Some((
                Kept {
                    authority,
                    next: None,
                },
                "the old authority is trusted no longer",
            )));
        }
        if !is_past(issuer.made, self.age) {
            return Ok(None);
        }
        let new = AuthorityPem::generate()?;
        let mut all = kept.authority.certificates.clone();
        if !all.ends_with(b"\n") {
            all.push(b'\n');
        }
        all.extend(&new.certificates);
        let authority = AuthorityPem {
            certificates: all,
            key: kept.authority.key.clone(),
        };
        let next = Some(new.key);
        Ok(Some((
            Kept { authority, next },
            "a new authority is trusted besides the old",
        )))
    }
}

/// The certificate of a key.
fn find<'m>(
    members: &'m [Member],
    key: &[u8],
    place: &str,
) -> Result<Option<&'m Member>, AccessError> {
    let key = public_key(key, place)?;
    Ok(members.iter().find(|member| member.key == key))
}

fn members(pem: &[u8], place: &str) -> Result<Vec<Member>, AccessError> {
    certificates(pem, place)?
        .into_iter()
        .map(|der| {
            let (_, parsed) =
                X509Certificate::from_der(&der).map_err(|error| AccessError::Authority {
                    what: place.to_owned(),
                    problem: format!("not a certificate: {error}"),
                })?;
            let name = parsed.subject().iter_common_name().next();
            Ok(Member {
                key: parsed.public_key().subject_public_key.data.to_vec(),
                made: system_time(parsed.validity().not_before.timestamp()) + BACKDATE,
                own: name.is_some_and(|name| {
                    name.as_str()
                        .is_ok_and(|name| name.starts_with(COMMON_NAME))
                }),
                der,
            })
        })
        .collect()
}

/// Without the keys.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("next", &self.next.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Authority;

    const DAY: Duration = Duration::from_secs(86_400);
    const ROTATION: Rotation = Rotation {
        age: Duration::from_secs(90 * 86_400),
        life: DAY,
    };

    fn step(kept: &Kept, days: u32) -> Option<Kept> {
        // A second for the fraction that a certificate leaves out.
        let now = SystemTime::now() + DAY * days + Duration::from_secs(1);
        let stepped = ROTATION.step(kept, now, "test").unwrap()?.0;
        // At every step it is an authority.
        Authority::read(&stepped.authority, "test").unwrap();
        Some(stepped)
    }

    fn bundle(kept: &Kept) -> Vec<CertificateDer<'static>> {
        certificates(&kept.authority.certificates, "test").unwrap()
    }

    #[test]
    fn an_authority_is_replaced_in_three_steps_a_life_apart() {
        let old = Kept {
            authority: AuthorityPem::generate().unwrap(),
            next: None,
        };
        assert_eq!(step(&old, 89), None);
        let begun = step(&old, 90).unwrap();
        assert_eq!(begun.authority.key, old.authority.key);
        assert_eq!(bundle(&begun).len(), 2);
        // The successor was made now, as this test's clock goes.
        assert_eq!(step(&begun, 0), None);
        let switched = step(&begun, 1).unwrap();
        assert_eq!(Some(&switched.authority.key), begun.next.as_ref());
        assert_eq!((bundle(&switched).len(), &switched.next), (2, &None));
        // Both are of one second here, and certificates have no finer: the older is told by that.
        let aged = aged(&switched, &old);
        assert_eq!(step(&aged, 1), None);
        let ended = step(&aged, 2).unwrap();
        assert_eq!(bundle(&ended), bundle(&switched)[1..]);
        assert_eq!(step(&ended, 89), None);
    }

    /// With an older certificate for the old key.
    fn aged(kept: &Kept, old: &Kept) -> Kept {
        let key =
            rcgen::KeyPair::from_pem(std::str::from_utf8(&old.authority.key).unwrap()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("{COMMON_NAME}old"));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.not_before = (SystemTime::now() - DAY).into();
        let older = params.self_signed(&key).unwrap().der().clone();
        let all = [older, bundle(kept)[1].clone()];
        Kept {
            authority: AuthorityPem {
                certificates: pem_of(all.iter()),
                key: kept.authority.key.clone(),
            },
            next: None,
        }
    }

    #[test]
    fn an_operators_authority_is_left_alone() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = (SystemTime::now() - DAY * 1000).into();
        let kept = Kept {
            authority: AuthorityPem {
                certificates: params.self_signed(&key).unwrap().pem().into_bytes(),
                key: key.serialize_pem().into_bytes(),
            },
            next: None,
        };
        assert_eq!(step(&kept, 1000), None);
    }
}

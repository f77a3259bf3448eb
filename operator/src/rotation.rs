//! How certificates are replaced while nodes run: in steps, each of which waits until every
//! node has taken up the one before.
//!
//! Nodes know each other by who signed their certificates, in both directions. A node that
//! showed a certificate of an authority that another does not know yet would be a stranger to
//! it. So, where the authority changes:
//!
//! 1. **Trust**: nodes are given the new authority beside the old one.
//! 2. **Issue**: once every node trusts both, and clients have had time to, they are given a
//!    certificate of the new one.
//! 3. **Drop**: once every node shows that, the old authority goes.
//!
//! Where only the certificate changes it is replaced at once: whoever is shown it knows the
//! authority. What is in force is what the nodes say, and nothing is remembered but since when
//! both authorities are trusted. So it makes no difference who made the certificates, and an
//! operator that dies between any two steps goes on where it was.
//!
//! Nodes that do not run are not waited for: they read the files when they start.

use std::collections::{BTreeMap, BTreeSet};

use cairn_client::InForce;

use crate::pki::{self, SecretData};

/// The most authorities that nodes are given at a time: more than one rotation that follows
/// another at once can leave.
const AUTHORITIES_MAX: usize = 16;

/// What nodes say that they go by, by their names; or why one says nothing.
pub type Told = BTreeMap<String, Result<InForce, String>>;

/// What there is, and what is wanted.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// What the nodes are given: the Secret that their pods mount.
    pub live: &'a SecretData,
    /// The authorities by which nodes are to know each other in the end, in PEM.
    pub authorities: &'a [u8],
    /// Whether the nodes' certificate is to be another one.
    pub replace: bool,
    /// Whether nodes believe each other with what they are given. Where they do not there is
    /// nothing to be careful about.
    pub believed: bool,
    /// Since when both authorities are trusted, milliseconds since 1970.
    pub trusted_since_unix_ms: Option<u64>,
    /// How long clients are given to trust both.
    pub overlap_ms: u64,
    /// Now, milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// A step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Both authorities are trusted.
    Trust,
    /// A certificate of the new one is shown.
    Issue,
    /// The old one is trusted no more.
    Drop,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing.
    Settled,
    /// Nodes are to be asked what they go by.
    Ask,
    /// These authorities are to be trusted from now on, in PEM, and the certificate stays.
    Authorities(Step, Vec<u8>),
    /// The certificate is to be replaced, and the authorities stay.
    Issue,
    /// These nodes have not taken the step yet.
    Wait(Step, Vec<String>),
    /// Clients are given time, until then.
    Overlap(u64),
}

/// Decides what is next. `told` is what nodes say, once they were asked.
///
/// # Errors
/// In words, where what there is, or what is wanted, are no certificates.
pub fn next(sight: &Sight<'_>, told: Option<&Told>) -> Result<Next, String> {
    let wanted = pki::fingerprints(sight.authorities)?;
    let live = sight.live.get(pki::AUTHORITY).map(Vec::as_slice);
    // What cannot be read is trusted by nobody.
    let trusted = live
        .and_then(|pem| pki::fingerprints(pem).ok())
        .unwrap_or_default();
    if !wanted.is_subset(&trusted) {
        if !sight.believed || trusted.is_empty() {
            return Ok(if sight.replace {
                Next::Issue
            } else {
                Next::Authorities(Step::Trust, sight.authorities.to_vec())
            });
        }
        if trusted.len() + wanted.len() > AUTHORITIES_MAX {
            return Err(format!(
                "{} authorities are trusted already, which the nodes have not taken up",
                trusted.len()
            ));
        }
        let both = [live.unwrap_or_default(), b"\n", sight.authorities].concat();
        return Ok(Next::Authorities(Step::Trust, both));
    }
    let is_changing = trusted != wanted;
    if sight.replace {
        if is_changing && sight.believed {
            let Some(told) = told else {
                return Ok(Next::Ask);
            };
            let trusts = |node: &InForce| {
                let known: BTreeSet<_> = node.authorities.iter().cloned().collect();
                wanted.is_subset(&known)
            };
            let behind = behind(told, trusts);
            if !behind.is_empty() {
                return Ok(Next::Wait(Step::Trust, behind));
            }
            let until = sight
                .trusted_since_unix_ms
                .map_or(0, |since| since.saturating_add(sight.overlap_ms));
            if sight.now_unix_ms < until {
                return Ok(Next::Overlap(until));
            }
        }
        return Ok(Next::Issue);
    }
    if is_changing {
        let Some(told) = told else {
            return Ok(Next::Ask);
        };
        let own = sight.live.get(pki::CERTIFICATE).map(Vec::as_slice);
        let own = pki::fingerprint(own.unwrap_or_default())?;
        let behind = behind(told, |node| node.certificate == own);
        if !behind.is_empty() {
            return Ok(Next::Wait(Step::Issue, behind));
        }
        return Ok(Next::Authorities(Step::Drop, sight.authorities.to_vec()));
    }
    Ok(Next::Settled)
}

/// Who has not taken it up, or does not say so.
pub fn behind(told: &Told, has: impl Fn(&InForce) -> bool) -> Vec<String> {
    told.iter()
        .filter_map(|(name, said)| match said {
            Ok(node) if has(node) => None,
            Ok(_) => Some(name.clone()),
            Err(why) => Some(format!("{name} ({why})")),
        })
        .collect()
}

/// Some of them by name, and how many more.
#[must_use]
pub fn named(nodes: &[String]) -> String {
    const NAMED_MAX: usize = 3;
    let mut named = nodes.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>();
    if nodes.len() > NAMED_MAX {
        named.push(format!("{} more", nodes.len() - NAMED_MAX));
    }
    named.join(", ")
}

/// What is waited for, in a sentence.
#[must_use]
pub fn sentence(next: &Next) -> Option<String> {
    match next {
        Next::Wait(step, nodes) => {
            let what = match step {
                Step::Trust => "trust the new certificate authority beside the old one",
                Step::Issue | Step::Drop => "show the new certificate",
            };
            Some(format!(
                "Certificates are replaced: every node is to {what} first; waiting for {}.",
                named(nodes)
            ))
        }
        Next::Overlap(_) => Some(
            "Certificates are replaced: clients are given time to trust the new certificate \
             authority beside the old one (tls.overlapSeconds)."
                .to_owned(),
        ),
        Next::Settled | Next::Ask | Next::Authorities(..) | Next::Issue => None,
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;

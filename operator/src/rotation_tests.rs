use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::names::Names;

/// In 2026.
const NOW: u64 = 1_795_000_000_000;

fn names() -> Names {
    Names {
        namespace: "shop".to_owned(),
        cluster: "orders".to_owned(),
    }
}

/// An authority, and a certificate of it.
fn made() -> (SecretData, SecretData) {
    let authority = pki::make_authority(&names(), NOW).expect("an authority");
    let certificate = leaf(&authority);
    (authority, certificate)
}

fn leaf(authority: &SecretData) -> SecretData {
    pki::make_certificate(&names(), &BTreeSet::new(), authority, NOW).expect("a certificate")
}

/// What a node says that was given this.
fn in_force(given: &SecretData) -> InForce {
    InForce {
        certificate: pki::fingerprint(&given[pki::CERTIFICATE]).expect("a certificate"),
        authorities: pki::fingerprints(&given[pki::AUTHORITY])
            .expect("authorities")
            .into_iter()
            .collect(),
        users: Vec::new(),
    }
}

fn told(nodes: &[SecretData]) -> Told {
    let named = nodes.iter().enumerate();
    named
        .map(|(at, given)| (format!("node-{at}"), Ok(in_force(given))))
        .collect()
}

fn sight<'a>(live: &'a SecretData, authority: &'a SecretData) -> Sight<'a> {
    Sight {
        live,
        authorities: &authority[pki::CERTIFICATE],
        replace: pki::needs_renewal(&names(), &BTreeSet::new(), authority, live, NOW),
        believed: true,
        trusted_since_unix_ms: Some(NOW),
        overlap_ms: 0,
        now_unix_ms: NOW,
    }
}

/// Whether a node that was given `server` is believed by one that was given `client`.
fn is_believed(client: &SecretData, server: &SecretData) -> Result<(), String> {
    let mut both = server.clone();
    both.insert(pki::AUTHORITY.to_owned(), client[pki::AUTHORITY].clone());
    pki::check(&names(), &both, Duration::from_millis(NOW))
}

#[test]
fn a_certificate_of_the_same_authority_is_replaced_without_asking_anybody() {
    let (authority, live) = made();
    assert_eq!(next(&sight(&live, &authority), None), Ok(Next::Settled));
    let replaced = Sight {
        replace: true,
        ..sight(&live, &authority)
    };
    assert_eq!(next(&replaced, None), Ok(Next::Issue));
}

#[test]
fn another_authority_is_trusted_before_it_signs_and_the_old_one_until_nobody_shows_it() {
    let (_, old) = made();
    let (authority, _) = made();
    // Nobody shows anything of it before every node trusts it.
    let Ok(Next::Authorities(Step::Trust, both)) = next(&sight(&old, &authority), None) else {
        panic!("it is not trusted first");
    };
    assert_eq!(pki::fingerprints(&both).expect("two").len(), 2);
    let mut trusting = old.clone();
    trusting.insert(pki::AUTHORITY.to_owned(), both);
    let at = sight(&trusting, &authority);
    assert_eq!(next(&at, None), Ok(Next::Ask));
    let some = told(&[trusting.clone(), old.clone(), trusting.clone()]);
    let waits = next(&at, Some(&some));
    assert_eq!(
        waits,
        Ok(Next::Wait(Step::Trust, vec!["node-1".to_owned()]))
    );
    let mut silent = told(&[trusting.clone(), trusting.clone()]);
    silent.insert("node-2".to_owned(), Err("no answer".to_owned()));
    let named = vec!["node-2 (no answer)".to_owned()];
    assert_eq!(next(&at, Some(&silent)), Ok(Next::Wait(Step::Trust, named)));
    let all = told(&[trusting.clone(), trusting.clone()]);
    assert_eq!(next(&at, Some(&all)), Ok(Next::Issue));
    // Nobody drops the old one before every node shows the new.
    let mut shown = leaf(&authority);
    shown.insert(pki::AUTHORITY.to_owned(), trusting[pki::AUTHORITY].clone());
    let at = sight(&shown, &authority);
    assert_eq!(next(&at, None), Ok(Next::Ask));
    let some = told(&[shown.clone(), trusting]);
    let waits = next(&at, Some(&some));
    assert_eq!(
        waits,
        Ok(Next::Wait(Step::Issue, vec!["node-1".to_owned()]))
    );
    let all = told(&[shown.clone(), shown.clone()]);
    let alone = authority[pki::CERTIFICATE].clone();
    assert_eq!(
        next(&at, Some(&all)),
        Ok(Next::Authorities(Step::Drop, alone.clone()))
    );
    shown.insert(pki::AUTHORITY.to_owned(), alone);
    assert_eq!(next(&sight(&shown, &authority), None), Ok(Next::Settled));
}

#[test]
fn clients_are_given_time_to_trust_the_new_authority() {
    let (_, old) = made();
    let (authority, _) = made();
    let mut trusting = old.clone();
    let both = [&old[pki::AUTHORITY][..], &authority[pki::CERTIFICATE][..]].concat();
    trusting.insert(pki::AUTHORITY.to_owned(), both);
    let all = told(&[trusting.clone()]);
    let at = |now_unix_ms| Sight {
        overlap_ms: 1_000,
        now_unix_ms,
        ..sight(&trusting, &authority)
    };
    assert_eq!(
        next(&at(NOW + 999), Some(&all)),
        Ok(Next::Overlap(NOW + 1_000))
    );
    assert_eq!(next(&at(NOW + 1_000), Some(&all)), Ok(Next::Issue));
}

#[test]
fn where_nodes_do_not_believe_each_other_nothing_is_waited_for() {
    let (_, old) = made();
    let (authority, _) = made();
    let at = Sight {
        believed: false,
        ..sight(&old, &authority)
    };
    assert_eq!(next(&at, None), Ok(Next::Issue));
    let mut broken = old;
    broken.remove(pki::AUTHORITY);
    assert_eq!(next(&sight(&broken, &authority), None), Ok(Next::Issue));
}

#[test]
fn what_is_no_certificate_is_an_error_in_words() {
    let (_, live) = made();
    for wanted in ["", "nothing"] {
        let wrong = Sight {
            authorities: wanted.as_bytes(),
            ..sight(&live, &live)
        };
        assert!(next(&wrong, None).is_err(), "{wanted}");
    }
}

/// Whoever makes certificates makes others whenever it likes, nodes take up what they are given
/// whenever they do, some start anew meanwhile, and the operator looks now and then: no two of
/// them are ever strangers to each other.
#[test]
fn no_node_is_a_stranger_to_another_whenever_each_takes_up_what_it_is_given() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut authority, mut live) = made();
        let mut nodes = vec![live.clone(); 4];
        let mut rotations = 0;
        for step in 0..120 {
            match rng.random_range(0..10) {
                0 if rotations < 3 => {
                    authority = pki::make_authority(&names(), NOW).expect("another");
                    rotations += 1;
                }
                // It takes up what it was given, or starts anew with it.
                1..=4 => {
                    let at = rng.random_range(0..nodes.len());
                    nodes[at] = live.clone();
                }
                _ => {
                    let at = sight(&live, &authority);
                    let said = told(&nodes);
                    match next(&at, Some(&said)).expect("certificates") {
                        Next::Authorities(_, pem) => {
                            live.insert(pki::AUTHORITY.to_owned(), pem);
                        }
                        Next::Issue => {
                            let mut new = leaf(&authority);
                            new.insert(pki::AUTHORITY.to_owned(), live[pki::AUTHORITY].clone());
                            live = new;
                        }
                        Next::Settled | Next::Ask | Next::Wait(..) | Next::Overlap(_) => {}
                    }
                }
            }
            for client in &nodes {
                for server in &nodes {
                    is_believed(client, server)
                        .unwrap_or_else(|why| panic!("seed {seed}, step {step}: {why}"));
                }
            }
        }
        // Left alone it comes to its end: the new authority by itself.
        for _ in 0..8 {
            nodes.fill(live.clone());
            match next(&sight(&live, &authority), Some(&told(&nodes))).expect("certificates") {
                Next::Authorities(_, pem) => {
                    live.insert(pki::AUTHORITY.to_owned(), pem);
                }
                Next::Issue => {
                    let mut new = leaf(&authority);
                    new.insert(pki::AUTHORITY.to_owned(), live[pki::AUTHORITY].clone());
                    live = new;
                }
                _ => {}
            }
        }
        assert_eq!(next(&sight(&live, &authority), None), Ok(Next::Settled));
        assert_eq!(live[pki::AUTHORITY], authority[pki::CERTIFICATE]);
    }
}

#[test]
fn who_is_waited_for_is_named_and_not_without_end() {
    let nodes: Vec<String> = (0..9).map(|at| format!("node-{at}")).collect();
    let text = sentence(&Next::Wait(Step::Trust, nodes)).expect("a sentence");
    assert!(
        text.contains("node-2, 6 more") && !text.contains("node-3"),
        "{text}"
    );
    assert_eq!(sentence(&Next::Settled), None);
}

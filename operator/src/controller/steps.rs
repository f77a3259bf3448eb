//! Carries out what was planned, in its order, up to the first thing that cannot be done now.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Client, ResourceExt};

use super::writes::{Deleted, Deletion, Error, Writes, within};
use crate::admin::{Coordinators, Refusal};
use crate::cluster::Cluster;
use crate::events::{News, Reason};
use crate::metrics;
use crate::names::ANNOTATION_RETIRED;
use crate::plan::{Admin, Note, Step, Topic};

/// What coordinators say where nothing had to be done.
const UNCHANGED: &str = "it already is as asked";

/// What came of the steps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// What was refused, or could not be asked.
    pub notes: Vec<Note>,
    /// What is to be told.
    pub news: Vec<News>,
    /// How many steps were carried out.
    pub done: usize,
}

/// Carries out steps. What the coordinators refuse ends the round and is no error: it is asked
/// for again in the next one, if it is still planned then.
///
/// # Errors
/// Where the API server does not answer or refuses, or this operator leads no longer.
pub async fn carry_out(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    coordinators: Option<&dyn Coordinators>,
    steps: &[Step],
) -> Result<Carried, Error> {
    let mut carried = Carried::default();
    for step in steps {
        let goes_on = match step {
            Step::Admin(change) => ask(writes, coordinators, change, &mut carried).await?,
            object => touch(client, writes, cluster, object, &mut carried).await?,
        };
        if !goes_on {
            break;
        }
        carried.done += 1;
    }
    Ok(carried)
}

/// Asks the coordinators for a change; whether it is done.
async fn ask(
    writes: &Writes,
    coordinators: Option<&dyn Coordinators>,
    change: &Admin,
    carried: &mut Carried,
) -> Result<bool, Error> {
    let term = writes.term()?;
    let answer = match coordinators {
        None => Err(Refusal::NoAnswer("no coordinator runs".to_owned())),
        Some(coordinators) => {
            let answer = coordinators.change(change, term).await;
            writes.note();
            answer
        }
    };
    let outcome = match &answer {
        Ok(_) => "ok",
        Err(Refusal::Refused(_)) => "refused",
        Err(Refusal::NoAnswer(_)) => "no_answer",
    };
    metrics::admin_call(change.word(), outcome);
    let (text, told) = match answer {
        Ok(said) => {
            tracing::info!(%change, said, "the coordinators did as asked");
            let reason = match change {
                Admin::Gone(_) => Some(Reason::NodeGivenUp),
                Admin::Retire(_) => Some(Reason::NodeRetired),
                // Many, and of no interest once done.
                Admin::MovePrimary { .. } | Admin::ExpectBack(..) | Admin::Cordon(..) => None,
                _ => Some(Reason::Changed),
            };
            if let Some(reason) = reason.filter(|_| said != UNCHANGED) {
                carried.news.push(News::new(reason, said));
            }
            return Ok(true);
        }
        Err(Refusal::Refused(why)) => {
            let text = format!("the coordinators refuse to {change}: {why}");
            (text.clone(), Some(News::new(Reason::Refused, text)))
        }
        Err(Refusal::NoAnswer(why)) => {
            let text = format!("the coordinators did not answer when asked to {change}: {why}");
            (text, None)
        }
    };
    carried.news.extend(told);
    carried.notes.push(Note {
        topic: topic(change),
        node: None,
        text,
    });
    Ok(false)
}

/// What a change is part of.
fn topic(change: &Admin) -> Topic {
    match change {
        Admin::Drain(_) | Admin::Undrain(_) | Admin::Retire(_) => Topic::Scaling,
        Admin::Gone(_) => Topic::Lost,
        Admin::ExpectBack(..) | Admin::Cordon(..) | Admin::MovePrimary { .. } => Topic::Restart,
        Admin::PauseMoves(_) => Topic::Maintenance,
        Admin::Settings(_) => Topic::Settings,
        Admin::AddCoordinators(_) | Admin::RemoveCoordinators(_) => Topic::Group,
    }
}

/// Changes an object of Kubernetes; whether that is done. One that is another by now, or that
/// changed since it was looked at, ends the round.
async fn touch(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    step: &Step,
    carried: &mut Carried,
) -> Result<bool, Error> {
    let namespace = &cluster.names.namespace;
    let claims = || Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let (deleted, told) = match step {
        Step::Admin(_) => return Ok(true),
        Step::DeletePod {
            name,
            uid,
            force,
            reason,
        } => {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let how = if *force {
                Deletion::Force
            } else {
                Deletion::Usual
            };
            let text = format!("pod {name} is deleted: {reason}");
            let news = News::new(Reason::PodDeleted, text);
            (writes.delete(&pods, name, uid, how).await?, news)
        }
        Step::DeleteClaim { name, uid, reason } => {
            let text = format!("claim {name} is deleted: {reason}");
            let news = News::new(Reason::ClaimDeleted, text);
            let how = Deletion::Usual;
            (writes.delete(&claims(), name, uid, how).await?, news)
        }
        Step::RenewSet { role, uid } => {
            let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            let name = cluster.names.role(*role);
            let text = format!(
                "StatefulSet {name} is made anew around its pods: its volumes are larger by now"
            );
            let news = News::new(Reason::Changed, text);
            let how = Deletion::Orphan;
            (writes.delete(&sets, &name, uid, how).await?, news)
        }
        Step::GrowClaim { name, uid, size } => {
            let claims = claims();
            let claim = match claim_as_seen(&claims, name, uid).await? {
                Ok(claim) => claim,
                Err(goes_on) => return Ok(goes_on),
            };
            match writes.grow(&claims, &claim, size).await {
                Ok(done) => {
                    let text = format!("claim {name} is asked to grow to {size}");
                    if done {
                        carried.news.push(News::new(Reason::Changed, text));
                    }
                    return Ok(done);
                }
                // What a class does not allow for must not hold the rest back.
                Err(error) if error.is_refused() => {
                    let text = format!(
                        "claim {name} cannot grow to {size}: {error}. Its StorageClass has to allow it (allowVolumeExpansion)."
                    );
                    carried.news.push(News::new(Reason::Refused, text.clone()));
                    carried.notes.push(Note {
                        topic: Topic::Stuck,
                        node: None,
                        text,
                    });
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Step::MarkRetired { name, uid, retired } => {
            let claims = claims();
            let claim = match claim_as_seen(&claims, name, uid).await? {
                Ok(claim) => claim,
                Err(goes_on) => return Ok(goes_on),
            };
            let mark = [(ANNOTATION_RETIRED, retired.then_some("true"))];
            return writes.annotate(&claims, &claim, &mark).await;
        }
    };
    if deleted == Deleted::Done {
        carried.news.push(told);
    }
    Ok(deleted != Deleted::Changed)
}

/// The claim if it is the one that was seen, else whether the round goes on without it: one
/// that is gone needs nothing any more, and another one ends the round.
async fn claim_as_seen(
    claims: &Api<PersistentVolumeClaim>,
    name: &str,
    uid: &str,
) -> Result<Result<PersistentVolumeClaim, bool>, Error> {
    let claim = within(|| format!("read claim {name}"), claims.get_opt(name)).await?;
    Ok(match claim {
        None => Err(true),
        Some(claim) if claim.uid().as_deref() != Some(uid) => Err(false),
        Some(claim) => Ok(claim),
    })
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;

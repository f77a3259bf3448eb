//! Which node this is.

use std::sync::Arc;

use arc_swap::ArcSwap;
use cairn_core::ids::NodeId;
use cairn_core::record::{ClusterMap, NodeStanding};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::leader::{Search, Unhelpful, register};
use super::map_file::ReadError;
use super::maps::SavedMap;
use super::places::LOOK_EVERY;
use super::{AgentConfig, AgentError, Enrolled, NodeIdentity, Place, inbox, map_file};

/// After how many tries it is said in the log once more that nobody helps.
const SAY_EVERY: u32 = 40;

/// Finds out which node this is: from the last map on disk, so that a node starts
/// while the coordinators are away (rule 14), or by registering with them, for as
/// long as it takes.
///
/// The number and the cluster's id are to be kept in the identity before anything
/// is done under them.
///
/// # Errors
/// See [`AgentError`].
pub async fn enroll(
    config: AgentConfig,
    identity: NodeIdentity,
    shutdown: CancellationToken,
) -> Result<Enrolled, AgentError> {
    let (node, map, saved) = match from_disk(&config, &identity).await? {
        Some((node, map)) => {
            let saved = SavedMap::of(&map);
            take_place(&config, &map, node).await;
            (node, map, saved)
        }
        None => {
            await_place(&config, &shutdown).await?;
            let (node, map) = admitted(&config, &identity, shutdown).await?;
            (node, map, SavedMap::default())
        }
    };
    if let Some(before) = identity.node
        && before != node
    {
        return Err(AgentError::Refused(format!(
            "this disk was admitted as {before}, and the coordinators know it as {node}"
        )));
    }
    let (inbox, outbox) = inbox::channel();
    Ok(Enrolled {
        node,
        map: Arc::new(ArcSwap::new(Arc::new(map))),
        saved,
        inbox,
        config,
        identity,
        outbox,
    })
}

async fn from_disk(
    config: &AgentConfig,
    identity: &NodeIdentity,
) -> Result<Option<(NodeId, ClusterMap)>, AgentError> {
    let file = config.map_file.clone();
    let unusable = |reason: String| AgentError::Map {
        file: config.map_file.clone(),
        reason,
    };
    let read = tokio::task::spawn_blocking(move || map_file::read(&file))
        .await
        .map_err(|e| unusable(e.to_string()))?;
    let map = match read {
        Ok(Some(map)) => map,
        Ok(None) => return Ok(None),
        Err(ReadError::Damaged(what)) => {
            tracing::warn!(
                what,
                "the map on disk is damaged; the coordinators are asked"
            );
            return Ok(None);
        }
        Err(error @ (ReadError::Io(_) | ReadError::Newer(_))) => {
            return Err(unusable(error.to_string()));
        }
    };
    if let Some(cluster) = &identity.cluster_id
        && *cluster != map.cluster_id
    {
        return Err(unusable(format!(
            "it is of cluster {}, and this disk belongs to {cluster}",
            map.cluster_id
        )));
    }
    // Nothing runs without the settings.
    if map.settings.is_none() {
        return Ok(None);
    }
    let known = map
        .nodes
        .values()
        .find(|info| info.uuid == identity.uuid && info.incarnation == identity.incarnation)
        .filter(|info| info.standing == NodeStanding::Member)
        .map(|info| info.id);
    Ok(known.map(|node| {
        tracing::info!(%node, version = %map.version, "starting from the map on disk");
        (node, map)
    }))
}

/// A node that has a place takes what the file says now, or else keeps it.
async fn take_place(config: &AgentConfig, map: &ClusterMap, node: NodeId) {
    if let Err(error) = look(config).await
        && let Some(info) = map.nodes.get(&node)
    {
        tracing::warn!(%error, "the node keeps the place that it has");
        config.places.settle(Place {
            zone: info.zone.clone(),
            weight: info.weight,
            outside: (*info.addresses.outside).clone(),
        });
    }
}

/// Waits until the node's place is known.
async fn await_place(config: &AgentConfig, shutdown: &CancellationToken) -> Result<(), AgentError> {
    let mut told = String::new();
    while let Err(error) = look(config).await {
        if error != told {
            tracing::warn!("{error}");
            told = error;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(AgentError::Shutdown),
            () = sleep(LOOK_EVERY) => {}
        }
    }
    Ok(())
}

async fn look(config: &AgentConfig) -> Result<(), String> {
    let places = config.places.clone();
    let looked = tokio::task::spawn_blocking(move || places.look()).await;
    match looked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn admitted(
    config: &AgentConfig,
    identity: &NodeIdentity,
    shutdown: CancellationToken,
) -> Result<(NodeId, ClusterMap), AgentError> {
    let cluster = identity.cluster_id.clone().unwrap_or_default();
    let mut search = Search::new(config);
    let mut tries = 0u32;
    loop {
        let (address, client) = match search.next() {
            Some((address, client)) => (address, Some(client)),
            None => (String::new(), None),
        };
        let tried = async {
            let mut client =
                client.ok_or_else(|| Unhelpful::Unavailable("no coordinator to ask".to_owned()))?;
            let admission = register(&mut client, config, identity, &cluster)
                .await
                .map_err(|why| {
                    tracing::debug!(address, %why, "register");
                    why
                })?;
            let map = admission
                .map
                .apply(&ClusterMap::default())
                .map_err(|e| Unhelpful::Unavailable(e.to_string()))?
                .ok_or_else(|| Unhelpful::Unavailable("an admission without a map".to_owned()))?;
            if map.settings.is_none() || map.cluster_id != admission.cluster_id {
                return Err(Unhelpful::Unavailable(
                    "an admission without settings".to_owned(),
                ));
            }
            Ok((admission.node, ClusterMap::clone(&map)))
        };
        let why = tokio::select! {
            () = shutdown.cancelled() => return Err(AgentError::Shutdown),
            tried = tried => match tried {
                Ok(admitted) => {
                    tracing::info!(node = %admitted.0, "admitted by the coordinators");
                    return Ok(admitted);
                }
                Err(why) => why,
            },
        };
        if let Unhelpful::Refused(why) = why {
            return Err(AgentError::Refused(why));
        }
        if tries.is_multiple_of(SAY_EVERY) {
            tracing::info!(%why, "not admitted by the coordinators yet");
        }
        tries = tries.wrapping_add(1);
        let pause = search.failed(&address, &why);
        tokio::select! {
            () = shutdown.cancelled() => return Err(AgentError::Shutdown),
            () = sleep(pause) => {}
        }
    }
}

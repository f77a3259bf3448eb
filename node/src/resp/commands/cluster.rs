//! `CLUSTER`.

use super::super::call::{Action, Call, Refusal};
use super::introspect::help_lines;

/// `CLUSTER` alone is refused by its arity.
pub(super) fn cluster(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Err("ERR wrong number of arguments for 'cluster' command"
        .to_owned()
        .into())
}

pub(super) fn slots(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let topology = call.shared.topology();
    let mut reply = call.reply();
    let protocol = reply.protocol();
    reply.raw(topology.slots(protocol));
    Ok(Action::Replied)
}

pub(super) fn shards(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let topology = call.shared.topology();
    let mut reply = call.reply();
    let protocol = reply.protocol();
    reply.raw(topology.shards(protocol));
    Ok(Action::Replied)
}

pub(super) fn nodes(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let topology = call.shared.topology();
    call.reply().text(topology.nodes());
    Ok(Action::Replied)
}

pub(super) fn info(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let text = call.shared.topology().info();
    call.reply().text(&text);
    Ok(Action::Replied)
}

pub(super) fn keyslot(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let slot = cairn_core::slots::slot(call.args.get(2));
    call.integer(i64::from(slot))
}

/// `CLUSTER MYID`, and `MYSHARDID`: the shards of a node differ from range to range,
/// so that the node's own name is the steadiest answer.
pub(super) fn my_id(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let topology = call.shared.topology();
    let name = topology
        .my_name()
        .ok_or_else(|| Refusal::from("CLUSTERDOWN The node has not joined a cluster".to_owned()))?;
    call.reply().bulk(name.as_bytes());
    Ok(Action::Replied)
}

/// There is no bus of Redis's kind.
pub(super) fn links(call: &mut Call<'_>) -> Result<Action, Refusal> {
    call.reply().array(0);
    Ok(Action::Replied)
}

/// No node is the replica of another as a whole.
pub(super) fn replicas(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let topology = call.shared.topology();
    if !topology.knows(call.args.get(2)) {
        let mut text = b"ERR Unknown node ".to_vec();
        text.extend_from_slice(call.args.get(2));
        return Err(text.into());
    }
    call.reply().array(0);
    Ok(Action::Replied)
}

pub(super) fn help(call: &mut Call<'_>) -> Result<Action, Refusal> {
    help_lines(
        call,
        "CLUSTER",
        &[
            ("INFO", "Return information about the cluster."),
            ("KEYSLOT <key>", "Return the hash slot for <key>."),
            (
                "LINKS",
                "Return an empty array: nodes have no links of Redis's kind.",
            ),
            ("MYID", "Return the node id."),
            ("MYSHARDID", "Return the node id."),
            (
                "NODES",
                "Return every node with the slots that it is primary of.",
            ),
            (
                "REPLICAS <node-id>",
                "Return an empty array: replicas go by slot range.",
            ),
            (
                "SHARDS",
                "Return information about slot range mappings and the nodes associated with them.",
            ),
            ("SLOTS", "Return information about slots range mappings."),
        ],
    )
}

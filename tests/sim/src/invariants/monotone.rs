//! Rule 6: reads of the level `any` by one client, from one state of one process, never
//! go back; and none is answered from a state that is yet to be filled.

use std::collections::BTreeMap;

use cairn_core::ids::{Index, NodeId};
use cairn_core::replication::Generation;

use super::{Check, broken};

const NAME: &str = "`any` reads are monotone on one node (rule 6)";

/// How far each client's reads have seen of each process: the newest state of it.
#[derive(Debug, Default)]
pub struct Monotone(BTreeMap<(u32, NodeId, u64), (Generation, Index)>);

impl Monotone {
    /// What a client's read that begins now must see at least, if it is of that state.
    #[must_use]
    pub fn floor(&self, client: u32, node: NodeId, session: u64) -> Option<(Generation, Index)> {
        self.0.get(&(client, node, session)).copied()
    }

    /// A client's read of the level `any` saw a state up to an index.
    ///
    /// # Errors
    /// Where that is nothing, or less than one saw that returned before it began.
    pub fn saw(
        &mut self,
        client: u32,
        (node, session): (NodeId, u64),
        (generation, seen): (Generation, Index),
        floor: Option<(Generation, Index)>,
    ) -> Check {
        let floor = floor.filter(|(of, _)| *of == generation);
        let floor = floor.map_or(Index(1), |(_, index)| index);
        if seen < floor {
            return Err(broken(
                NAME,
                format!("client {client} saw {floor} on {node}, and {seen} after it"),
            ));
        }
        let known = self.0.entry((client, node, session));
        let known = known.or_insert((generation, seen));
        *known = (*known).max((generation, seen));
        Ok(())
    }
}

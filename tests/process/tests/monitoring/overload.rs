//! More writes than a cluster takes: than wait for a quorum, than a replica keeps up with, than
//! the copy of a new one does.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::{slot_keys, status, waiting};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::live::Trial;

/// The partition that the writes go to.
const PARTITION: u32 = 0;
/// What a value holds, where many bytes are wanted.
const LARGE: usize = 128 << 10;
/// How many such writes fit into what may wait on a node.
const FITTING: usize = 8;

/// Writes a value to a node under each of these keys, without waiting for an answer before all
/// are sent; how many writes it acknowledges.
fn pour(address: &str, keys: &[String], value: &[u8]) -> Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let poured = async {
        let mut connection = Connection::open(address, BOUND).await?;
        for key in keys {
            connection.send(&[b"SET", key.as_bytes(), value]).await?;
        }
        let mut acknowledged = 0;
        for _ in keys {
            let reply = connection.receive().await?;
            acknowledged += usize::from(reply == Reply::Simple("OK".to_owned()));
        }
        anyhow::Ok(acknowledged)
    };
    runtime
        .block_on(async { tokio::time::timeout(BOUND, poured).await })
        .context("the answers did not come")?
}

/// So many bytes that nothing makes fewer of.
fn noise(bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    StdRng::seed_from_u64(bytes as u64).fill_bytes(&mut value);
    value
}

impl Trial {
    /// Whom writes to the partition go to at present.
    fn primary(&self) -> Result<String> {
        let (_, primary) = status::primary(&self.cluster, PARTITION)?;
        Ok(self.cluster.data[primary].resp())
    }

    /// Which data nodes hold it besides.
    fn followers(&self) -> Result<[usize; 2]> {
        waiting::until("a primary with two followers", BOUND, || {
            let (_, primary) = status::primary(&self.cluster, PARTITION)?;
            let away = status::without(&self.cluster, PARTITION)?;
            let all = 0..self.cluster.data.len();
            let others: Vec<usize> = all
                .filter(|node| *node != primary && !away.contains(node))
                .collect();
            Ok(others.try_into().ok())
        })
    }

    /// So many keys of the partition.
    fn keys(&self, count: usize) -> Vec<String> {
        let keys = slot_keys::one_per_partition("load", self.cluster.partitions());
        let tag = &keys[PARTITION as usize];
        (0..count).map(|n| format!("{{{tag}}}{n}")).collect()
    }

    /// The flushes of two of three replicas hang for a moment, over and over, and more writes
    /// come meanwhile than may wait: some take long, and the rest is refused.
    pub(crate) fn too_many_writes(&self) -> Result<()> {
        let alerts = ["CairnCommitSlow", "CairnOverloaded"];
        self.prometheus.await_clear(&alerts)?;
        let (keys, value) = (self.keys(4 * FITTING), noise(LARGE));
        waiting::until("CairnCommitSlow and CairnOverloaded to fire", BOUND, || {
            let (followers, address) = (self.followers()?, self.primary()?);
            for node in followers {
                self.cluster.data[node].power()?.stall(true)?;
            }
            let hung = thread::scope(|scope| {
                let poured = scope.spawn(|| pour(&address, &keys, &value));
                let node = &self.cluster.data[followers[0]];
                let hung = waiting::until("a flush to hang", Duration::from_secs(5), || {
                    let awaited = node.metric("cairn_wal_flush_awaited_seconds")?;
                    Ok((awaited > 0.6).then_some(()))
                });
                for node in followers {
                    self.cluster.data[node].power()?.stall(false)?;
                }
                let poured = poured.join();
                poured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                hung
            });
            hung?;
            let names = self.prometheus.names()?;
            Ok(alerts
                .iter()
                .all(|alert| names.contains(*alert))
                .then_some(()))
        })?;
        println!("fire: {alerts:?}");
        Ok(())
    }

    /// A replica stands still while its primary takes many writes.
    pub(crate) fn lag(&self) -> Result<()> {
        let alert = "CairnReplicaLagging";
        self.prometheus.await_clear(&[alert])?;
        let keys = self.keys(500);
        let behind = &self.cluster.data[self.followers()?[0]];
        behind.freeze()?;
        let fired = waiting::until("CairnReplicaLagging to fire", BOUND, || {
            pour(&self.primary()?, &keys, b"value")?;
            Ok(self.prometheus.names()?.contains(alert).then_some(()))
        });
        behind.thaw()?;
        fired?;
        println!("fires: {alert}");
        self.prometheus.await_clear(&[alert])
    }

    /// A node that begins anew on an empty disk takes its copies slowly, and more is written
    /// meanwhile than is kept for it.
    pub(crate) fn slow_copy(&mut self) -> Result<()> {
        let alert = "CairnWritesPushedBack";
        self.cluster.await_serving()?;
        status::await_healthy(&self.cluster)?;
        let (keys, value) = (self.keys(8 * FITTING), noise(LARGE));
        for some in keys.chunks(FITTING) {
            waiting::until("what is to be copied to be there", BOUND, || {
                let acknowledged = pour(&self.primary()?, some, &value)?;
                Ok((acknowledged == some.len()).then_some(()))
            })?;
        }
        // Writing so much is not enough.
        self.prometheus.await_clear(&[alert])?;
        let rate = "CAIRN_SNAPSHOT_RECEIVE_BYTES_PER_SECOND";
        let copying = self.followers()?[0];
        let node = &mut self.cluster.data[copying];
        node.kill()?;
        node.wipe()?;
        node.set(rate, "1MiB");
        node.start()?;
        // From its next start on it takes as much as it can again.
        node.set(rate, 0);
        waiting::until("CairnWritesPushedBack to fire", BOUND, || {
            pour(&self.primary()?, &keys[..FITTING], &value)?;
            Ok(self.prometheus.names()?.contains(alert).then_some(()))
        })?;
        println!("fires: {alert}");
        self.prometheus.await_clear(&[alert])
    }
}

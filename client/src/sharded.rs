//! One logical key that is spread over several, where no single primary can carry it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use cairn_core::hot::KeyHash;
use cairn_core::kv::request::{Condition, Expiry, Value};
use futures::{StreamExt, TryStreamExt, stream};

use crate::client::{Client, DeleteOutcome, PutOptions, PutOutcome};
use crate::error::Error;
use crate::scan::ScanOptions;

/// The most shards.
pub const SHARDS_MAX: u16 = 1_024;
/// The longest name of a spread key.
pub const NAME_BYTES_MAX: usize = 1_024;
/// How many shards are asked at a time, where several are.
const PARALLEL: usize = 8;

/// Which shard an item belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Its name says so, by XXH3: the same item is always in the same shard, and looking for it
    /// asks that one alone. For sets and maps that are too busy for one key.
    ByMember,
    /// Its time says so: what belongs to one period is in one shard, and the next period in the
    /// next one. For what is read, and thrown away, by time. The present period is as hot as
    /// ever: where that is too much, choose another rule.
    ByTime {
        /// How long a period is, in milliseconds.
        period_ms: u64,
    },
    /// Whichever is next: every shard is written alike, and whoever looks for an item asks all
    /// of them. For events that are written once, under names of their own, and read together.
    RoundRobin,
}

/// Over how many shards, and by which rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    /// The rule.
    pub rule: Rule,
    /// How many shards there are: what is written goes to one of these.
    pub shards: u16,
    /// How many there were: items are looked for there too, and what is written is taken out
    /// there. See [`Sharded`] for how the number is changed.
    pub before: Option<u16>,
    /// How many there will be: items are looked for there too.
    pub after: Option<u16>,
}

/// One logical key, each of whose items is a key of its own in one of several shards. A shard is
/// one slot, so that different primaries serve different shards.
///
/// The key of an item is `{NAME#N/OF}ITEM`, with the shard's number N of OF shards: any client
/// can find it.
///
/// # Changing the number of shards
/// From 4 to 16, without losing sight of an item:
///
/// 1. Every process opens it with `shards: 4, after: Some(16)`: it writes as before, and reads
///    both.
/// 2. Every process opens it with `shards: 16, before: Some(4)`: it writes to the new shards, and
///    takes what it replaces out of the old ones. Where items are *overwritten*, no process of
///    step 1 may write any more when the first of step 2 does: pause the writers in between. Items
///    that are written once need no pause.
/// 3. [`Sharded::move_over`] moves what is left in the old shards, and is repeated until it moves
///    nothing. It may be broken off, and run in several processes at once.
/// 4. Every process opens it with `shards: 16` and nothing else.
///
/// From step 1 to step 3 its reads must be stronger than [`Consistency::Any`]: an item is looked
/// for in the old shards first, and what leaves those was put into the new ones before.
///
/// [`Consistency::Any`]: crate::Consistency::Any
///
/// ```no_run
/// # async fn example(client: cairn_client::Client) -> Result<(), cairn_client::Error> {
/// use cairn_client::sharded::{Rule, Sharded, Spread};
///
/// // Who watches a stream: far too many come and go for one key.
/// let watching = Sharded::new(
///     client,
///     "watching:final",
///     Spread { rule: Rule::ByMember, shards: 16, before: None, after: None },
/// )?;
/// watching.put("alice", "since 20:15").await?;
/// assert!(watching.get("alice").await?.is_some());
/// let everybody = watching.all(100_000).await?;
/// assert!(everybody.iter().any(|(member, _)| member == "alice"));
/// watching.delete("alice").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sharded {
    client: Client,
    name: Bytes,
    spread: Spread,
    turn: AtomicU64,
}

impl Sharded {
    /// Opens it. Nothing is asked of the cluster.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the name or the spread cannot be.
    pub fn new(client: Client, name: impl Into<Bytes>, spread: Spread) -> Result<Self, Error> {
        let name = name.into();
        check(&name, spread)?;
        Ok(Self {
            client,
            name,
            spread,
            turn: AtomicU64::new(rand::random()),
        })
    }

    /// Puts an item, where the rule does not need to know when it is of.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Invalid`] where the rule goes by time.
    pub async fn put(&self, item: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        self.put_item(item.into(), None, value.into(), Expiry::Never)
            .await
    }

    /// Puts an item of a time, in milliseconds since 1970 or since whenever the caller counts;
    /// perhaps one that expires.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put_at(
        &self,
        time_ms: u64,
        item: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expiry: Expiry,
    ) -> Result<(), Error> {
        self.put_item(item.into(), Some(time_ms), value.into(), expiry)
            .await
    }

    /// The value of an item. Where the rule goes by time, or by turns, all shards are asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, item: impl Into<Bytes>) -> Result<Option<Value>, Error> {
        self.get_item(&item.into(), None).await
    }

    /// The value of an item of a time: where the rule goes by time, its shard alone is asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_at(
        &self,
        time_ms: u64,
        item: impl Into<Bytes>,
    ) -> Result<Option<Value>, Error> {
        self.get_item(&item.into(), Some(time_ms)).await
    }

    /// Deletes an item, wherever it is; returns whether it existed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, item: impl Into<Bytes>) -> Result<bool, Error> {
        let item = item.into();
        let mut keys = Vec::new();
        for of in self.numbers() {
            keys.extend(self.candidates(of, &item, None));
        }
        let deletes = keys.into_iter().map(|key| self.client.delete(key));
        let deleted: Vec<bool> = stream::iter(deletes)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        Ok(deleted.contains(&true))
    }

    /// Every item, in the order of their names, from all shards: each shard at a moment of its
    /// own.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Invalid`] where there are more than `most`: walk through the
    /// shards one by one instead, see [`Self::prefixes`].
    pub async fn all(&self, most: usize) -> Result<Vec<(Bytes, Value)>, Error> {
        let mut items = BTreeMap::new();
        // The old shards first: what is moved meanwhile is in the new ones before it leaves the
        // old ones. And what is in both is newer in the new ones.
        for of in self.numbers() {
            let shards = (0..of).map(|shard| self.walk(shard, of, most));
            let mut shards = stream::iter(shards).buffer_unordered(PARALLEL);
            while let Some(rows) = shards.try_next().await? {
                items.extend(rows);
                if items.len() > most {
                    return Err(Error::Invalid {
                        field: "most".to_owned(),
                        problem: format!("is {most}, and there are more items"),
                    });
                }
            }
        }
        Ok(items.into_iter().collect())
    }

    /// What the keys of each shard begin with that is written to, for [`Client::scan`] and
    /// [`Client::watch`]: the rest of a key is the name of its item.
    pub fn prefixes(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.spread.shards).map(|shard| self.prefix(shard, self.spread.shards))
    }

    /// Moves up to `most` items from the shards of before into those that are written.
    /// An item that was written anew meanwhile stays as it is. Returns how many it took out of
    /// the old shards; 0: there is none left.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Invalid`] where the rule goes by time, which is known to
    /// whoever wrote an item: let such items run out in the old shards.
    pub async fn move_over(&self, most: usize) -> Result<usize, Error> {
        let Some(old) = self.before() else {
            return Ok(0);
        };
        if matches!(self.spread.rule, Rule::ByTime { .. }) {
            return Err(invalid(
                "rule",
                "goes by the time of items, which is not kept",
            ));
        }
        let mut moved = 0;
        for shard in 0..old {
            let rows = self.walk_up_to(shard, old, most - moved).await?;
            let from = self.prefix(shard, old);
            let moves = rows.into_iter().map(|(item, value)| {
                let from = joined(&from, &item);
                self.move_item(from, item, value)
            });
            let mut moves = stream::iter(moves).buffer_unordered(PARALLEL);
            while let Some(gone) = moves.try_next().await? {
                moved += usize::from(gone);
            }
            if moved >= most {
                break;
            }
        }
        Ok(moved)
    }

    async fn move_item(&self, from: Bytes, item: Bytes, value: Value) -> Result<bool, Error> {
        let options = PutOptions {
            // What is there is newer.
            condition: Condition::Absent,
            expiry: value.expires_at.map_or(Expiry::Never, Expiry::AtMillis),
            ..PutOptions::default()
        };
        let to = self.place(&item, None)?;
        let put = self
            .client
            .put_with(to.clone(), value.data, options)
            .await?;
        let as_read = Condition::Version(value.version);
        let deleted = self.client.delete_if(from, as_read).await?;
        if let (PutOutcome::Applied { version, .. }, DeleteOutcome::Missing) = (put, deleted) {
            // Somebody deleted it meanwhile, or wrote it anew: what was put here is not to stay.
            let as_put = Condition::Version(version);
            self.client.delete_if(to, as_put).await?;
        }
        Ok(deleted == DeleteOutcome::Deleted)
    }

    async fn put_item(
        &self,
        item: Bytes,
        time_ms: Option<u64>,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<(), Error> {
        let options = PutOptions {
            expiry,
            ..PutOptions::default()
        };
        let key = self.place(&item, time_ms)?;
        self.client.put_with(key, value, options).await?;
        // What it replaces must not be found any more. What is written once replaces nothing.
        if let Some(old) = self.before()
            && self.spread.rule != Rule::RoundRobin
        {
            for key in self.candidates(old, &item, time_ms) {
                self.client.delete(key).await?;
            }
        }
        Ok(())
    }

    async fn get_item(&self, item: &Bytes, time_ms: Option<u64>) -> Result<Option<Value>, Error> {
        let mut found = None;
        // As in `all`: the old shards first, and the new ones win.
        for of in self.numbers() {
            let keys = self.candidates(of, item, time_ms).into_iter();
            let gets = keys.map(|key| self.client.get(key));
            let values: Vec<Option<Value>> = stream::iter(gets)
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
            found = values.into_iter().flatten().next().or(found);
        }
        Ok(found)
    }

    fn before(&self) -> Option<u16> {
        let Spread { shards, before, .. } = self.spread;
        before.filter(|before| *before != shards)
    }

    /// The numbers of shards in which items may be, the oldest first.
    fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        let Spread { shards, after, .. } = self.spread;
        let after = after.filter(|after| *after != shards);
        [self.before(), Some(shards), after].into_iter().flatten()
    }

    /// The key that an item is written under.
    fn place(&self, item: &Bytes, time_ms: Option<u64>) -> Result<Bytes, Error> {
        let of = self.spread.shards;
        let shard = match (self.spread.rule, time_ms) {
            (Rule::RoundRobin, _) => remainder(self.turn.fetch_add(1, Ordering::Relaxed), of),
            (rule, time_ms) => shard_of(rule, of, item, time_ms)
                .ok_or_else(|| invalid("rule", "goes by time: say of when the item is"))?,
        };
        Ok(joined(&self.prefix(shard, of), item))
    }

    /// The keys under which an item may be found in so many shards.
    fn candidates(&self, of: u16, item: &Bytes, time_ms: Option<u64>) -> Vec<Bytes> {
        let shards = match shard_of(self.spread.rule, of, item, time_ms) {
            Some(shard) => shard..shard + 1,
            None => 0..of,
        };
        shards
            .map(|shard| joined(&self.prefix(shard, of), item))
            .collect()
    }

    /// What the keys of a shard begin with: a hash tag, so that all are in one slot.
    fn prefix(&self, shard: u16, of: u16) -> Bytes {
        let mut prefix = BytesMut::with_capacity(self.name.len() + 14);
        prefix.extend_from_slice(b"{");
        prefix.extend_from_slice(&self.name);
        prefix.extend_from_slice(format!("#{shard}/{of}}}").as_bytes());
        prefix.freeze()
    }

    async fn walk(&self, shard: u16, of: u16, most: usize) -> Result<Vec<(Bytes, Value)>, Error> {
        // One more than is wanted tells that there are more.
        self.walk_up_to(shard, of, most.saturating_add(1)).await
    }

    async fn walk_up_to(
        &self,
        shard: u16,
        of: u16,
        most: usize,
    ) -> Result<Vec<(Bytes, Value)>, Error> {
        let prefix = self.prefix(shard, of);
        let mut scan = self.client.scan(ScanOptions {
            prefix: prefix.clone(),
            page: most.clamp(1, 1_000),
            ..ScanOptions::default()
        });
        let mut rows = Vec::new();
        while rows.len() < most {
            let Some(row) = scan.next().await? else {
                break;
            };
            rows.push((row.key.slice(prefix.len()..), row.value));
        }
        Ok(rows)
    }
}

fn check(name: &Bytes, spread: Spread) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(invalid("name", "must have 1 to 1024 bytes"));
    }
    if name.iter().any(|byte| matches!(byte, b'{' | b'}')) {
        return Err(invalid(
            "name",
            "must have no braces: each shard gets a hash tag of its own",
        ));
    }
    let numbers = [Some(spread.shards), spread.before, spread.after];
    for number in numbers.into_iter().flatten() {
        if !(1..=SHARDS_MAX).contains(&number) {
            return Err(invalid("shards", "must be from 1 to 1024"));
        }
    }
    if spread.rule == (Rule::ByTime { period_ms: 0 }) {
        return Err(invalid("period_ms", "must be 1 at least"));
    }
    Ok(())
}

fn invalid(field: &str, problem: &str) -> Error {
    Error::Invalid {
        field: field.to_owned(),
        problem: problem.to_owned(),
    }
}

/// The shard of an item, where the rule and what is known of it say so.
fn shard_of(rule: Rule, of: u16, item: &[u8], time_ms: Option<u64>) -> Option<u16> {
    match rule {
        Rule::ByMember => Some(remainder(KeyHash::of(item).0, of)),
        Rule::ByTime { period_ms } => Some(remainder(time_ms? / period_ms, of)),
        Rule::RoundRobin => None,
    }
}

fn remainder(number: u64, of: u16) -> u16 {
    u16::try_from(number % u64::from(of)).unwrap_or_default()
}

fn joined(prefix: &Bytes, item: &Bytes) -> Bytes {
    let mut key = BytesMut::with_capacity(prefix.len() + item.len());
    key.extend_from_slice(prefix);
    key.extend_from_slice(item);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cairn_core::slots::{slot, slot_of_prefix};

    use super::*;

    const BY_TIME: Rule = Rule::ByTime { period_ms: 1_000 };

    #[test]
    fn members_spread_evenly_and_stay_where_they_are() {
        let mut held = [0; 16];
        for number in 0..16_000 {
            let item = format!("member {number}");
            let shard = shard_of(Rule::ByMember, 16, item.as_bytes(), None);
            assert_eq!(
                shard,
                shard_of(Rule::ByMember, 16, item.as_bytes(), Some(7))
            );
            held[usize::from(shard.expect("a shard"))] += 1;
        }
        assert!(
            held.iter().all(|held| (850..1_150).contains(held)),
            "{held:?}"
        );
    }

    #[test]
    fn a_period_is_one_shard_and_the_next_one_another() {
        let at = |time| shard_of(BY_TIME, 4, b"item", Some(time));
        assert_eq!(at(5_000), at(5_999));
        let shards: BTreeSet<_> = (0..4).map(|period| at(period * 1_000)).collect();
        assert_eq!(shards.len(), 4);
        assert_eq!(at(0), at(4_000));
        assert_eq!(shard_of(BY_TIME, 4, b"item", None), None);
    }

    #[test]
    fn a_shard_is_one_slot_and_shards_are_of_many() {
        let prefix = |shard: u16| format!("{{watching:final#{shard}/16}}");
        let slots: BTreeSet<u16> = (0..16)
            .map(|shard| {
                let prefix = prefix(shard);
                let tagged = slot_of_prefix(prefix.as_bytes()).expect("a hash tag");
                assert_eq!(slot(format!("{prefix}alice").as_bytes()), tagged);
                assert_eq!(slot(format!("{prefix}{{bob}}").as_bytes()), tagged);
                tagged
            })
            .collect();
        assert_eq!(slots.len(), 16);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let spread = |rule, shards, after| Spread {
            rule,
            shards,
            before: None,
            after,
        };
        let name = Bytes::from_static(b"name");
        assert_eq!(check(&name, spread(BY_TIME, 4, Some(8))), Ok(()));
        for (name, spread) in [
            (Bytes::new(), spread(BY_TIME, 4, None)),
            (Bytes::from_static(b"{name}"), spread(BY_TIME, 4, None)),
            (name.clone(), spread(Rule::ByMember, 0, None)),
            (
                name.clone(),
                spread(Rule::ByMember, 4, Some(SHARDS_MAX + 1)),
            ),
            (name, spread(Rule::ByTime { period_ms: 0 }, 4, None)),
        ] {
            assert!(matches!(check(&name, spread), Err(Error::Invalid { .. })));
        }
    }
}

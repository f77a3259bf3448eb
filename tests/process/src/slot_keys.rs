//! Keys that fall into a wanted partition.

use cairn_core::slots;

/// The partition of a key, of `partitions` equal ranges.
#[must_use]
pub fn partition_of(key: &str, partitions: u32) -> u32 {
    let slot = u32::from(slots::slot(key.as_bytes()));
    // The guess is off by one at most, since ranges have equal length to one.
    let mut partition = slot * partitions / u32::from(slots::SLOTS);
    while slot > u32::from(slots::range_of_partition(partition, partitions).last) {
        partition += 1;
    }
    partition
}

/// For each partition the first key `{prefix}{n}` that falls into it.
#[must_use]
pub fn one_per_partition(prefix: &str, partitions: u32) -> Vec<String> {
    let mut keys = vec![None; partitions as usize];
    let mut missing = keys.len();
    for number in 0u64.. {
        let key = format!("{prefix}{number}");
        let place = &mut keys[partition_of(&key, partitions) as usize];
        if place.is_none() {
            *place = Some(key);
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    keys.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_gets_a_key_of_its_own() {
        for partitions in [1, 3, 128, 1000] {
            let keys = one_per_partition("probe:", partitions);
            for (partition, key) in keys.iter().enumerate() {
                assert_eq!(partition_of(key, partitions) as usize, partition);
                let range = slots::range_of_partition(partition as u32, partitions);
                assert!(range.contains(slots::slot(key.as_bytes())));
            }
        }
    }
}

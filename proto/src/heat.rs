//! What is hot on a data node, as its heartbeat tells it.

use cairn_core::cluster::report::{
    HEAT_KEY_BYTES, HEAT_KEYS_MAX, HEAT_PARTITIONS_MAX, HeatReport, KeyHeat,
};
use cairn_core::hot::PartitionLoad;
use cairn_core::ids::PartitionId;

use crate::Malformed;
use crate::malformed::bounded;
use crate::pb::coordinator::v1 as pb;

impl From<HeatReport> for pb::HeatReport {
    fn from(HeatReport { partitions, keys }: HeatReport) -> Self {
        Self {
            partitions: partitions.into_iter().map(load).collect(),
            keys: keys.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::HeatReport> for HeatReport {
    type Error = Malformed;

    fn try_from(pb::HeatReport { partitions, keys }: pb::HeatReport) -> Result<Self, Malformed> {
        bounded(partitions.len(), HEAT_PARTITIONS_MAX, "heat.partitions")?;
        bounded(keys.len(), HEAT_KEYS_MAX, "heat.keys")?;
        Ok(Self {
            partitions: partitions.into_iter().map(told).collect(),
            keys: keys
                .into_iter()
                .map(KeyHeat::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn load((partition, load): (PartitionId, PartitionLoad)) -> pb::PartitionLoad {
    let PartitionLoad {
        reads_per_second,
        replica_reads_per_second,
        writes_per_second,
        bytes_per_second,
        processor_micros_per_second,
    } = load;
    pb::PartitionLoad {
        partition: partition.0,
        reads_per_second,
        replica_reads_per_second,
        writes_per_second,
        bytes_per_second,
        processor_micros_per_second,
    }
}

fn told(message: pb::PartitionLoad) -> (PartitionId, PartitionLoad) {
    let pb::PartitionLoad {
        partition,
        reads_per_second,
        replica_reads_per_second,
        writes_per_second,
        bytes_per_second,
        processor_micros_per_second,
    } = message;
    let load = PartitionLoad {
        reads_per_second,
        replica_reads_per_second,
        writes_per_second,
        bytes_per_second,
        processor_micros_per_second,
    };
    (PartitionId(partition), load)
}

impl From<KeyHeat> for pb::KeyHeat {
    fn from(
        KeyHeat {
            partition,
            hash,
            name,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
            hot_for_ms,
        }: KeyHeat,
    ) -> Self {
        Self {
            partition: partition.0,
            hash,
            name: name.map(Into::into),
            reads_per_second,
            writes_per_second,
            bytes_per_second,
            hot_for_ms,
        }
    }
}

impl TryFrom<pb::KeyHeat> for KeyHeat {
    type Error = Malformed;

    fn try_from(
        pb::KeyHeat {
            partition,
            hash,
            name,
            reads_per_second,
            writes_per_second,
            bytes_per_second,
            hot_for_ms,
        }: pb::KeyHeat,
    ) -> Result<Self, Malformed> {
        let length = name.as_ref().map_or(0, |name| name.len());
        bounded(length, HEAT_KEY_BYTES, "heat.keys.name")?;
        Ok(Self {
            partition: PartitionId(partition),
            hash,
            name: name.map(Into::into),
            reads_per_second,
            writes_per_second,
            bytes_per_second,
            hot_for_ms,
        })
    }
}

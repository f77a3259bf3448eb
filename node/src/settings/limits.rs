//! What is told of hot keys, and how often they are answered.

use cairn_core::hot::KeyRate;

use super::reader::Reader;
use crate::partition::HotKeysShown;

pub(super) fn hot_keys(reader: &Reader<'_>) -> HotKeysShown {
    const NAME: &str = "CAIRN_HOT_KEYS";
    match reader.text(NAME) {
        None | Some("hashes") => HotKeysShown::Hashes,
        Some("names") => HotKeysShown::Names,
        Some("off") => HotKeysShown::Off,
        Some(_) => {
            reader.problem(NAME, "there is no such choice", "Give hashes, names or off");
            HotKeysShown::Off
        }
    }
}

/// How often a hot key is answered in a second, where that is bounded.
pub(super) fn key_rate(reader: &Reader<'_>) -> Option<KeyRate> {
    const NAME: &str = "CAIRN_KEY_RATE_MAX";
    let requests = reader.number(NAME, 0..=KeyRate::PER_SECOND_MAX)?;
    let rate = KeyRate::per_second(requests);
    if rate.is_some() && reader.text("CAIRN_HOT_KEYS") == Some("off") {
        reader.problem(
            NAME,
            "nobody looks for the keys that it limits",
            "Set CAIRN_HOT_KEYS to hashes or names, or CAIRN_KEY_RATE_MAX to 0",
        );
    }
    rate
}

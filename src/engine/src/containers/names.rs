//! Names for containers to which nobody gave one.

use crate::EngineError;

const QUALITIES: [&str; 48] = [
    "able", "amber", "ample", "bold", "brave", "brisk", "calm", "civil", "clear", "coastal", "deep", "eager",
    "early", "fair", "fast", "firm", "fond", "free", "glad", "golden", "grand", "hardy", "honest", "jolly",
    "keen", "kind", "late", "light", "lively", "loyal", "merry", "mild", "neat", "noble", "open", "plain",
    "proud", "quick", "quiet", "ready", "salty", "sharp", "silver", "steady", "sunny", "swift", "warm",
    "wise",
];
const THINGS: [&str; 48] = [
    "anchor", "beacon", "beam", "bilge", "boom", "bow", "brig", "buoy", "cabin", "cable", "canvas",
    "capstan", "cargo", "cleat", "compass", "current", "cutter", "deck", "dinghy", "dory", "ferry", "fjord",
    "galley", "gull", "harbour", "hatch", "helm", "hull", "jetty", "jib", "keel", "knot", "lagoon",
    "lantern", "mast", "oar", "otter", "pier", "plank", "prow", "reef", "rigging", "rudder", "sail", "skiff",
    "sloop", "stern", "tide",
];

/// `calm_rudder`.
pub(super) fn random() -> Result<String, EngineError> {
    let id = crate::engine::new_id()?;
    let number = |from: usize| usize::from_str_radix(&id[from..from + 4], 16).unwrap_or_default();
    Ok(format!("{}_{}", QUALITIES[number(0) % QUALITIES.len()], THINGS[number(4) % THINGS.len()]))
}

//! What has to be installed for some of the comparisons.

use std::env;

/// Names what there is to do without, with commas; those who run this say so.
const WITHOUT: &str = "LARDER_WITHOUT";

/// Whether this need not be done without.
pub(crate) fn is_there(need: &str) -> bool {
    env::var(WITHOUT).unwrap_or_default().split(',').all(|name| name.trim() != need)
}

//! `larder owner`: a key's place in the cluster.

use serde::Deserialize;

use super::{
    Failure,
    client::{ask_json, owner_path},
    print, wait_for,
};
use crate::cli::OwnerArgs;

/// A key's place, as the node tells it.
#[derive(Deserialize)]
struct Place {
    /// None on golang/groupcache's ring, which has no slots.
    slot: Option<u16>,
    /// None while no member takes keys.
    owner: Option<String>,
    /// None where a node is alone.
    stand_in: Option<String>,
}

/// Prints the key's slot, its owner, and who answers while the owner can't be reached.
///
/// # Errors
///
/// If there is no such group, or the node can't be asked.
pub fn run(args: &OwnerArgs) -> Result<(), Failure> {
    let key = &args.key;
    let answer = wait_for(ask_json(&key.node.url, &owner_path(&key.group, &key.key)))?;
    if args.json {
        return print(format!("{answer}\n").as_bytes());
    }
    let place: Place = serde_json::from_value(answer)
        .map_err(|error| Failure::failed(format!("the node's answer can't be understood: {error}")))?;
    let known = |what: Option<String>| what.unwrap_or_else(|| "-".to_owned());
    let slot = known(place.slot.map(|slot| slot.to_string()));
    let (owner, stand_in) = (known(place.owner), known(place.stand_in));
    print(format!("owner     {owner}\nstand-in  {stand_in}\nslot      {slot}\n").as_bytes())
}

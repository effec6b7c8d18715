//! Claims: how a slot passes from its previous owner to the next.

pub(crate) mod state;
pub(crate) mod table;

#[cfg(test)]
mod explore;

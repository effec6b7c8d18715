//! Claims: how a slot passes from its previous owner to the next.

pub(crate) mod state;

#[cfg(test)]
mod explore;

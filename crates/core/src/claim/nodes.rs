//! [`Nodes`]: numbers for the names of nodes, as each of the slots refers to some.

use std::{collections::HashMap, sync::Arc};

use super::state::NodeId;

/// The numbers of nodes. Names are few: those of the members that there ever were.
#[derive(Default)]
pub(super) struct Nodes {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, NodeId>,
}

impl Nodes {
    pub(super) fn id(&mut self, name: &Arc<str>) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as NodeId;
        self.names.push(name.clone());
        self.ids.insert(name.clone(), id);
        id
    }

    pub(super) fn name(&self, id: NodeId) -> Arc<str> {
        self.known(id).clone()
    }

    pub(super) fn known(&self, id: NodeId) -> &Arc<str> {
        &self.names[id as usize]
    }
}

/// What holds of a node, looked up once for all slots that are claimed from it.
pub(super) struct PerNode<T, F> {
    look_up: F,
    found: Vec<Option<T>>,
}

impl<T: Copy, F: Fn(&str) -> T> PerNode<T, F> {
    pub(super) fn new(look_up: F) -> Self {
        Self { look_up, found: Vec::new() }
    }

    pub(super) fn of(&mut self, id: NodeId, nodes: &Nodes) -> T {
        let Self { look_up, found } = self;
        found.resize(found.len().max(nodes.names.len()), None);
        let place = id as usize;
        *found[place].get_or_insert_with(|| look_up(nodes.known(id)))
    }
}

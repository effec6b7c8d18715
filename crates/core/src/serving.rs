//! [`Serving`]: a node as the server side of a transport sees it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    Error, Node, PeerService, Version,
    claim::{Phase, SlotCall, SlotReply, SlotRequest},
    peer::{PeerAnswer, PeerQuestion, PeerWrite, Reply},
    stats::Protocol,
};

/// A node as the server side of a transport sees it.
pub(crate) struct Serving {
    pub(crate) node: Node,
    pub(crate) over: Protocol,
}

impl PeerService for Serving {
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>> {
        Box::pin(async move { self.node.group(&question.group)?.serve(question, self.over).await })
    }

    fn answer_all(self: Arc<Self>, questions: Vec<PeerQuestion>) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(questions.len());
        let mut questions = questions.into_iter().peekable();
        // Most are of one group: those of one that come in a row are answered together.
        while let Some(first) = questions.next() {
            let name = first.group.clone();
            let mut row = Vec::with_capacity(1 + questions.len());
            row.push(first);
            row.extend(std::iter::from_fn(|| questions.next_if(|next| next.group == name)));
            match self.node.group(&name) {
                Ok(group) => replies.append(&mut group.serve_all(row, self.over)),
                Err(error) => replies.extend(row.iter().map(|_| Reply::Now(Err(error.clone())))),
            }
        }
        replies
    }

    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>> {
        Box::pin(async move {
            let group = self.node.group(&request.group)?;
            group.serve_write(request, self.over).await.map(Some)
        })
    }

    fn slots(&self, request: SlotRequest) -> BoxFuture<'_, Result<SlotReply, Error>> {
        Box::pin(async move {
            let (node, SlotRequest { from, incarnation, call }) = (&self.node, request);
            Ok(match call {
                SlotCall::Claim(claim) => {
                    let (answers, carried) = node.claimed(&from, &claim);
                    SlotReply::Claimed(answers, carried)
                }
                SlotCall::Confirm { term, slots } => {
                    node.tenure().confirmed(&from, term, &slots);
                    node.forget_locks(|slot| slots.contains(slot) && node.tenure().phase(slot) != Phase::Acts);
                    SlotReply::Confirmed
                }
                SlotCall::Recall { has_yours } => node.recalled(&from, incarnation, has_yours),
                SlotCall::Push { term, group, entries } => {
                    SlotReply::Pushed { wants_more: node.group(&group)?.take_pushed(&from, term, entries) }
                }
                SlotCall::Revoke { group, key } => {
                    node.group(&group)?.revoked(&key);
                    SlotReply::Revoked
                }
                SlotCall::Lock(call) => SlotReply::Lock(node.keep_lock(from, call).await?),
                SlotCall::Clock => SlotReply::Clock { reading: node.standing().reading() },
                SlotCall::Raise { group, marks, to } => {
                    SlotReply::Raised { known: node.group(&group)?.raise(&marks, to)? }
                }
                SlotCall::Marks { group, marks } => {
                    // In this order: what is raised from here on waits for the taker.
                    node.marks_taken_by(&from);
                    SlotReply::Marks { marks: node.group(&group)?.exchange_marks(marks)? }
                }
                SlotCall::Copies { view, dropped } => {
                    SlotReply::Copies { slots: node.copies_at(&from, view, &dropped) }
                }
                SlotCall::Records(call) => SlotReply::Records(node.about_records(&from, call).await?),
            })
        })
    }
}

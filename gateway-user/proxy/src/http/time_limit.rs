//! Time limits that begin when the client has sent its whole request.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::body::Progress;
use crate::deadlines::{Deadline, Deadlines};

/// A time limit. `None` for a limit never passes, and costs nothing.
// Envoy: Filter::onRequestComplete starts the timers.
#[derive(Debug)]
pub(crate) struct TimeLimit {
    after: Option<Duration>,
    request: Option<Rc<Progress>>,
    deadline: Option<Deadline>,
}

impl TimeLimit {
    pub(crate) fn new(limit: Option<Duration>, request: Option<&Rc<Progress>>) -> Self {
        Self {
            after: limit,
            request: limit.and(request).cloned(),
            deadline: None,
        }
    }

    /// Waits until it has passed.
    fn poll(&mut self, cx: &mut Context<'_>, all: &Rc<Deadlines>) -> Poll<()> {
        let Some(after) = self.after else {
            return Poll::Pending;
        };
        if let Some(request) = &self.request {
            ready!(request.poll_over(cx));
            self.request = None;
        }
        self.deadline.get_or_insert_with(|| all.set(after)).poll(cx)
    }

    /// The deadline that the limit has led to: none if there is no limit, or if it hasn't begun.
    pub(crate) fn into_deadline(self) -> Option<Deadline> {
        self.deadline
    }
}

/// The future's output, unless the limit passes before.
pub(crate) async fn within<T>(
    limit: &mut TimeLimit,
    all: &Rc<Deadlines>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        limit.poll(cx, all).map(|()| None)
    })
    .await
}

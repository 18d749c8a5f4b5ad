//! Time limits that begin when the client has sent its whole request.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{self, Sleep};

use super::body::Progress;

/// A limit. Without one it never passes, and costs nothing.
// Envoy: Filter::onRequestComplete starts the timers.
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Option<Duration>,
    request: Option<Rc<Progress>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(super) fn new(limit: Option<Duration>, request: Option<&Rc<Progress>>) -> Self {
        Self {
            limit,
            request: limit.and(request).cloned(),
            sleep: None,
        }
    }

    /// Waits until it has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if let Some(request) = &self.request {
            ready!(request.poll_over(cx));
            self.request = None;
        }
        self.sleep
            .get_or_insert_with(|| Box::pin(time::sleep(limit)))
            .as_mut()
            .poll(cx)
    }

    /// What is left of it: none if there is no limit, or if it hasn't begun.
    pub(super) fn into_sleep(self) -> Option<Pin<Box<Sleep>>> {
        self.sleep
    }
}

/// The future's output, unless the deadline passes before.
pub(super) async fn within<T>(
    deadline: &mut Deadline,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        deadline.poll(cx).map(|()| None)
    })
    .await
}

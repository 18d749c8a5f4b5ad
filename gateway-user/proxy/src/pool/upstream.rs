//! A connection to an endpoint that a request has, or a share of one.

use std::{cell::Cell, mem, net::SocketAddr, rc::Rc};

use http::{Method, Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};

use super::{
    direct::Direct,
    sender::{SendBody, start_http1},
};
use crate::clock::Tick;

/// A connection in use, or a share of one. Dropped, it is closed, or its stream is.
#[derive(Debug)]
pub(crate) enum Upstream<B> {
    /// Boxed, because it goes through many hands: there is one allocation for each connection, not for
    /// each request.
    Http1(Box<Http1Connection<B>>),
    Http2(Http2Share<B>),
}

/// A connection in HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1Connection<B> {
    pub(super) endpoint: SocketAddr,
    local: Option<SocketAddr>,
    pub(super) session: Session<B>,
    /// How many requests it has had.
    served: u32,
    /// Whether the endpoint has answered in HTTP/1.0: hyper would ask in kind from then on.
    outdated: bool,
}

/// How HTTP/1.1 is spoken over a connection.
#[derive(Debug)]
pub(super) enum Session<B> {
    /// Directly, for as long as requests and answers are ordinary.
    Direct(Direct),
    /// By hyper.
    Hyper(http1::SendRequest<B>),
    /// Not any more: the connection ended while it was being handed over to hyper.
    Gone,
}

/// A connection in HTTP/2, which requests share.
#[derive(Debug)]
pub(super) struct Http2Connection<B> {
    pub(super) sender: http2::SendRequest<B>,
    local: Option<SocketAddr>,
    streams: Cell<u32>,
    served: Cell<u32>,
    /// Since when it has been idle, as far as is known.
    since: Cell<Option<Tick>>,
}

/// A request's share of a connection.
#[derive(Debug)]
pub(crate) struct Http2Share<B>(Rc<Http2Connection<B>>);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError<B> {
    /// None of the request was written: it comes back, if it was given away.
    Unsent(Option<Box<Request<B>>>),
    /// The connection has ended.
    Ended,
    /// hyper says why.
    Failed(hyper::Error),
}

impl<B> Upstream<B> {
    /// The address that this side of the connection has.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(connection) => connection.local,
            Self::Http2(share) => share.0.local,
        }
    }

    /// Whether requests go in HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The connection, to ask a request directly, if it is one for that.
    pub(crate) fn direct(&mut self) -> Option<&mut Direct> {
        let Self::Http1(connection) = self else {
            return None;
        };
        match &mut connection.session {
            Session::Direct(direct) => {
                connection.served = connection.served.saturating_add(1);
                Some(direct)
            }
            Session::Hyper(_) | Session::Gone => None,
        }
    }

    /// The connection, to read more of an answer to what was asked directly.
    pub(super) fn reading(&mut self) -> Option<&mut Direct> {
        match self {
            Self::Http1(connection) => match &mut connection.session {
                Session::Direct(direct) => Some(direct),
                Session::Hyper(_) | Session::Gone => None,
            },
            Self::Http2(_) => None,
        }
    }
}

impl<B: SendBody> Upstream<B> {
    /// Sends a request through hyper.
    ///
    /// # Errors
    ///
    /// If there is no answer. The request comes back if none of it was written.
    pub(crate) async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        match self {
            Self::Http1(connection) => connection.send(request).await,
            Self::Http2(Http2Share(shared)) => {
                shared.served.set(shared.served.get().saturating_add(1));
                let mut sender = shared.sender.clone();
                Ok(Box::pin(sender.try_send_request(request)).await?)
            }
        }
    }

    /// Lets hyper read the answer to a request that has been asked directly.
    ///
    /// # Errors
    ///
    /// If hyper can't read it either, or the connection ends.
    pub(crate) async fn read_unusual(
        &mut self,
        method: &Method,
    ) -> Result<Response<Incoming>, SendError<B>> {
        match self {
            Self::Http1(connection) => connection.read_unusual(method).await,
            Self::Http2(_) => Err(SendError::Ended),
        }
    }
}

impl<B> Http1Connection<B> {
    pub(super) fn new(
        endpoint: SocketAddr,
        local: Option<SocketAddr>,
        session: Session<B>,
    ) -> Box<Self> {
        Box::new(Self {
            endpoint,
            local,
            session,
            served: 0,
            outdated: false,
        })
    }

    /// Whether it may be used for a further request, with so many allowed for each connection.
    pub(super) fn may_stay(&self, max_requests: Option<u32>) -> bool {
        !self.outdated && max_requests.is_none_or(|max| self.served < max)
    }

    /// Whether a request can be sent now, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        match &self.session {
            Session::Direct(direct) => direct.is_alive(),
            Session::Hyper(sender) => sender.is_ready(),
            Session::Gone => false,
        }
    }

    fn take_direct(&mut self) -> Option<Direct> {
        match mem::replace(&mut self.session, Session::Gone) {
            Session::Direct(direct) => Some(direct),
            other => {
                self.session = other;
                None
            }
        }
    }
}

impl<B: SendBody> Http1Connection<B> {
    async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        self.served = self.served.saturating_add(1);
        if let Some(direct) = self.take_direct() {
            let sender = start_http1(direct.into_stream()).await;
            self.session = Session::Hyper(sender.map_err(|_| SendError::Ended)?);
        }
        let Session::Hyper(sender) = &mut self.session else {
            return Err(SendError::Ended);
        };
        let response = sender.try_send_request(request).await?;
        self.outdated = response.version() < Version::HTTP_11;
        Ok(response)
    }

    async fn read_unusual(&mut self, method: &Method) -> Result<Response<Incoming>, SendError<B>> {
        let direct = self.take_direct().ok_or(SendError::Ended)?;
        let sender = start_http1(direct.adopt()).await;
        let mut sender = sender.map_err(|_| SendError::Ended)?;
        // How an answer is read depends on the request's method and on nothing else of it.
        let mut request = Request::new(B::default());
        request.method_mut().clone_from(method);
        let response = sender.try_send_request(request).await;
        self.session = Session::Hyper(sender);
        let response = response.map_err(|mut error| match error.take_message() {
            // The true request has been sent long since, whatever hyper thinks of this one.
            Some(_) => SendError::Ended,
            None => SendError::Failed(error.into_error()),
        })?;
        self.outdated = response.version() < Version::HTTP_11;
        Ok(response)
    }
}

impl<B> Http2Connection<B> {
    pub(super) fn new(sender: http2::SendRequest<B>, local: Option<SocketAddr>) -> Rc<Self> {
        Rc::new(Self {
            sender,
            local,
            streams: Cell::new(0),
            served: Cell::new(0),
            since: Cell::new(None),
        })
    }

    /// Whether a further request may go over it, with so many allowed at once and in all.
    pub(super) fn has_room(&self, streams: u32, requests: u32) -> bool {
        !self.sender.is_closed() && self.streams.get() < streams && self.served.get() < requests
    }

    /// A share for a request.
    pub(super) fn share(self: &Rc<Self>) -> Http2Share<B> {
        self.streams.set(self.streams.get() + 1);
        Http2Share(Rc::clone(self))
    }

    /// For how many ticks it has been idle, as far as is known. To be asked with every tick.
    pub(super) fn idle(&self, now: Tick) -> Tick {
        let idle = self.streams.get() == 0;
        let since = self.since.get().filter(|_| idle).unwrap_or(now);
        self.since.set(Some(since));
        now.wrapping_sub(since)
    }
}

impl<B> Drop for Http2Share<B> {
    fn drop(&mut self) {
        let streams = &self.0.streams;
        streams.set(streams.get().saturating_sub(1));
    }
}

impl<B> From<TrySendError<Request<B>>> for SendError<B> {
    fn from(mut error: TrySendError<Request<B>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Some(Box::new(request))),
            None => Self::Failed(error.into_error()),
        }
    }
}

//! Bodies of requests on their way through: streamed and counted. Those that may have to be sent again,
//! or to mirrors too, are kept, up to a limit.

mod error;
mod gate;
mod progress;
mod request;
mod source;
mod store;
mod streamed;

pub(crate) use error::BodyError;
pub(crate) use gate::Gate;
pub(crate) use progress::Progress;
pub(crate) use request::RequestBody;
pub(crate) use store::Store;

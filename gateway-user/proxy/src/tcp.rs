//! TCP from clients: each connection goes to one endpoint for as long as it lives.

mod acceptor;
mod copy;
mod log;
mod relay;
mod watched;

pub(crate) use acceptor::TcpAcceptor;
pub(crate) use log::ConnectionLog;

//! Faults that a route injects: requests are delayed or fail on purpose.

use http::StatusCode;
use nodegate_model::gateway::Fault;
use nodegate_observe::ResponseFlag;
use nodegate_route::fault;
use tokio::time;

use super::{exchange::Exchange, reply::LocalReply};

/// Delays a request if it is to be delayed; then answers it if it is to be aborted.
pub(crate) async fn inject(
    fault: &Fault,
    grpc: bool,
    exchange: &mut Exchange,
) -> Option<LocalReply> {
    let decision = fault::decide(fault, fastrand::u64(..), fastrand::u64(..));
    if let Some(delay) = decision.delay {
        exchange.flag(ResponseFlag::DelayInjected);
        time::sleep(delay).await;
    }
    let (status, grpc_status) = decision.abort?.for_request(grpc);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reply = LocalReply::new(status, "fault_filter_abort")
        .with_body("fault filter abort")
        .with_flag(ResponseFlag::FaultInjected);
    Some(match grpc_status {
        Some(status) => reply.with_grpc_status(status),
        None => reply,
    })
}

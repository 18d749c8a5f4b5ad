//! Failing on purpose.

use http::StatusCode;
use tokio::time;

use super::{exchange::Exchange, grpc, reply::LocalReply};
use crate::{
    model::gateway::{AbortStatus, Fault},
    observe::ResponseFlag,
};

/// Makes a request wait, if its turn has come; then answers it, if that turn has come too.
// Envoy: FaultFilter, which draws for each by itself.
pub(super) async fn inject(
    fault: &Fault,
    grpc: bool,
    exchange: &mut Exchange,
) -> Option<LocalReply> {
    if let Some(delay) = &fault.delay
        && delay.percentage.includes(fastrand::u64(..))
    {
        exchange.flag(ResponseFlag::DelayInjected);
        time::sleep(delay.duration).await;
    }
    let abort = fault.abort.as_ref()?;
    if !abort.percentage.includes(fastrand::u64(..)) {
        return None;
    }
    let status = match abort.status {
        AbortStatus::Http(status) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        AbortStatus::Grpc(_) if grpc => StatusCode::OK,
        AbortStatus::Grpc(status) => grpc::http_status(status),
    };
    let reply = LocalReply::new(status, "fault_filter_abort")
        .with_body("fault filter abort")
        .with_flag(ResponseFlag::FaultInjected);
    Some(match abort.status {
        AbortStatus::Grpc(status) => reply.with_grpc_status(status),
        AbortStatus::Http(_) => reply,
    })
}

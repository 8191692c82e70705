//! One service answers: the request goes on as it comes, the answer comes back as it goes.

use std::sync::Arc;

use http::{Response, StatusCode};

use crate::{
    body::Body,
    error::{Refusal, UpstreamError},
    record::Record,
    transform::{self, Ready},
    upgrade,
    upstream::{CallFailed, Caller, Upstream},
};

/// Calls the service.
///
/// # Errors
/// [`Refusal::Upstream`]; where the client's own body is to blame, [`Refusal::BodyTooLarge`] or
/// [`Refusal::BodyLost`]; [`Refusal::Handshake`], [`Refusal::TunnelsFull`].
pub async fn proxy(
    upstream: &Arc<Upstream>,
    ready: &mut Ready,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let Ready { admitted, message, deadline } = ready;
    let fate = message.body.fate();
    let asked = match &admitted.routed.route.upgrades {
        Some(upgrades) => upgrades.asked(&admitted.routed.request.head)?,
        None => None,
    };
    let again = || transform::outgoing_head(admitted, record).ok();
    let outcome = upstream.call(Caller::of(admitted, *deadline), message, &again).await;
    match outcome {
        Ok(mut answer) => {
            record.endpoint = Some(answer.endpoint);
            if let Some(stall) = admitted.routed.route.stall {
                answer.response.body_mut().stalls_after(stall);
            }
            let mut response = match answer.response.status() {
                StatusCode::SWITCHING_PROTOCOLS => upgrade::switched(asked, answer.response)?,
                _ => answer.response.map(Body::upstream),
            };
            for (name, value) in &admitted.permit.headers {
                response.headers_mut().insert(*name, value.clone());
            }
            Ok(response)
        }
        Err(CallFailed { error, endpoint }) => {
            record.endpoint = endpoint;
            match fate {
                Some(fate) if fate.is_too_large() => {
                    Err(Refusal::BodyTooLarge { limit: admitted.routed.route.body_bytes })
                }
                Some(fate) if fate.is_lost() => Err(Refusal::BodyLost),
                // The client never sent all of it: the service is not to blame.
                Some(fate) if error == UpstreamError::Timeout && !fate.is_complete() => {
                    Err(Refusal::BodyLost)
                }
                _ => Err(error.into()),
            }
        }
    }
}

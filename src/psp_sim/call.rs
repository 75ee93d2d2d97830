//! What a request asks for: operations by method and path.

use super::params::Params;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    CreateIntent,
    RetrieveIntent,
    UpdateIntent,
    ConfirmIntent,
    CaptureIntent,
    CancelIntent,
    ListIntents,
    SearchIntents,
    CreateRefund,
    RetrieveRefund,
    ListRefunds,
    RetrieveCharge,
    ListCharges,
    RetrieveDispute,
    ListDisputes,
    RetrieveEvent,
    ListEvents,
    CreateEndpoint,
    RetrieveEndpoint,
    DeleteEndpoint,
    ListEndpoints,
}

impl Operation {
    /// Whether it may change something.
    pub fn writes(self) -> bool {
        matches!(
            self,
            Self::CreateIntent
                | Self::UpdateIntent
                | Self::ConfirmIntent
                | Self::CaptureIntent
                | Self::CancelIntent
                | Self::CreateRefund
                | Self::CreateEndpoint
                | Self::DeleteEndpoint
        )
    }

    /// As faults and the ledger name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateIntent => "payment_intents.create",
            Self::RetrieveIntent => "payment_intents.retrieve",
            Self::UpdateIntent => "payment_intents.update",
            Self::ConfirmIntent => "payment_intents.confirm",
            Self::CaptureIntent => "payment_intents.capture",
            Self::CancelIntent => "payment_intents.cancel",
            Self::ListIntents => "payment_intents.list",
            Self::SearchIntents => "payment_intents.search",
            Self::CreateRefund => "refunds.create",
            Self::RetrieveRefund => "refunds.retrieve",
            Self::ListRefunds => "refunds.list",
            Self::RetrieveCharge => "charges.retrieve",
            Self::ListCharges => "charges.list",
            Self::RetrieveDispute => "disputes.retrieve",
            Self::ListDisputes => "disputes.list",
            Self::RetrieveEvent => "events.retrieve",
            Self::ListEvents => "events.list",
            Self::CreateEndpoint => "webhook_endpoints.create",
            Self::RetrieveEndpoint => "webhook_endpoints.retrieve",
            Self::DeleteEndpoint => "webhook_endpoints.delete",
            Self::ListEndpoints => "webhook_endpoints.list",
        }
    }

    pub const ALL: [Self; 21] = [
        Self::CreateIntent,
        Self::RetrieveIntent,
        Self::UpdateIntent,
        Self::ConfirmIntent,
        Self::CaptureIntent,
        Self::CancelIntent,
        Self::ListIntents,
        Self::SearchIntents,
        Self::CreateRefund,
        Self::RetrieveRefund,
        Self::ListRefunds,
        Self::RetrieveCharge,
        Self::ListCharges,
        Self::RetrieveDispute,
        Self::ListDisputes,
        Self::RetrieveEvent,
        Self::ListEvents,
        Self::CreateEndpoint,
        Self::RetrieveEndpoint,
        Self::DeleteEndpoint,
        Self::ListEndpoints,
    ];
}

/// A request that was understood.
#[derive(Debug, Clone)]
pub struct Call {
    pub operation: Operation,
    pub path: String,
    /// Of the object that the path names.
    pub id: String,
    pub params: Params,
    pub key: Option<String>,
}

/// The operation at this method and path, and the id in the path.
pub fn route<'a>(method: &str, path: &'a str) -> Option<(Operation, &'a str)> {
    let parts: Vec<_> = path.strip_prefix("/v1/")?.split('/').collect();
    let operation = match (method, parts.as_slice()) {
        ("POST", ["payment_intents"]) => Operation::CreateIntent,
        ("GET", ["payment_intents"]) => Operation::ListIntents,
        ("GET", ["payment_intents", "search"]) => Operation::SearchIntents,
        ("GET", ["payment_intents", _]) => Operation::RetrieveIntent,
        ("POST", ["payment_intents", _]) => Operation::UpdateIntent,
        ("POST", ["payment_intents", _, "confirm"]) => Operation::ConfirmIntent,
        ("POST", ["payment_intents", _, "capture"]) => Operation::CaptureIntent,
        ("POST", ["payment_intents", _, "cancel"]) => Operation::CancelIntent,
        ("POST", ["refunds"]) => Operation::CreateRefund,
        ("GET", ["refunds"]) => Operation::ListRefunds,
        ("GET", ["refunds", _]) => Operation::RetrieveRefund,
        ("GET", ["charges"]) => Operation::ListCharges,
        ("GET", ["charges", _]) => Operation::RetrieveCharge,
        ("GET", ["disputes"]) => Operation::ListDisputes,
        ("GET", ["disputes", _]) => Operation::RetrieveDispute,
        ("GET", ["events"]) => Operation::ListEvents,
        ("GET", ["events", _]) => Operation::RetrieveEvent,
        ("POST", ["webhook_endpoints"]) => Operation::CreateEndpoint,
        ("GET", ["webhook_endpoints"]) => Operation::ListEndpoints,
        ("GET", ["webhook_endpoints", _]) => Operation::RetrieveEndpoint,
        ("DELETE", ["webhook_endpoints", _]) => Operation::DeleteEndpoint,
        _ => return None,
    };
    Some((operation, parts.get(1).copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_operations() {
        let of = |method, path| route(method, path);
        assert_eq!(of("POST", "/v1/payment_intents"), Some((Operation::CreateIntent, "")));
        assert_eq!(of("GET", "/v1/payment_intents/search"), Some((Operation::SearchIntents, "search")));
        assert_eq!(of("POST", "/v1/payment_intents/pi_1/capture"), Some((Operation::CaptureIntent, "pi_1")));
        for (method, path) in [("GET", "/v1"), ("PUT", "/v1/refunds"), ("GET", "/v2/refunds"), ("GET", "/")] {
            assert_eq!(of(method, path), None, "{method} {path}");
        }
    }
}

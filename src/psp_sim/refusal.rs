//! What is refused, in the form of Stripe's errors.

use serde_json::{Value, json};

use super::book::Answer;
use super::methods::Decline;

/// An error and its status.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: u16,
    kind: &'static str,
    code: Option<String>,
    message: String,
    decline_code: Option<String>,
    param: Option<String>,
    /// The object that is in the way, and its name.
    object: Option<(&'static str, Value)>,
    charge: Option<String>,
    /// Whether the request got past validation: only then is its answer kept for its key.
    pub executed: bool,
}

impl Refusal {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            message: message.into(),
            decline_code: None,
            param: None,
            object: None,
            charge: None,
            executed: false,
        }
    }

    /// 400: a parameter is not of its form. Never tells the value, which may be anything.
    pub fn parameter(param: &str, code: &str, message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message).code(code).param(param)
    }

    pub fn missing(param: &str) -> Self {
        Self::parameter(param, "parameter_missing", format!("Missing required param: {param}."))
    }

    /// 404: there is no such object.
    pub fn unknown(what: &str, id: &str) -> Self {
        let message = format!("No such {what}: '{id}'");
        Self::new(404, "invalid_request_error", message).code("resource_missing").param("id").executed()
    }

    /// 401: the caller is nobody.
    pub fn nobody(message: &str) -> Self {
        Self::new(401, "invalid_request_error", message)
    }

    /// 400: the payment is in a state in which that can't be done.
    pub fn state(intent: Value, message: impl Into<String>) -> Self {
        let refusal = Self::new(400, "invalid_request_error", message);
        refusal.code("payment_intent_unexpected_state").object("payment_intent", intent).executed()
    }

    /// 402: the bank said no.
    pub fn declined(decline: &Decline, charge: Option<String>, intent: Value) -> Self {
        let mut refusal = Self::new(402, "card_error", decline.message.clone());
        refusal = refusal.code(&decline.code).object("payment_intent", intent).executed();
        refusal.decline_code.clone_from(&decline.decline_code);
        refusal.charge = charge;
        refusal
    }

    /// The provider's own fault.
    pub fn fault(status: u16) -> Self {
        Self::new(status, "api_error", "Something went wrong on the provider's side.").executed()
    }

    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    #[must_use]
    pub fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    #[must_use]
    pub fn object(mut self, name: &'static str, object: Value) -> Self {
        self.object = Some((name, object));
        self
    }

    #[must_use]
    pub fn executed(mut self) -> Self {
        self.executed = true;
        self
    }

    pub fn answer(&self) -> Answer {
        let mut error = json!({"type": self.kind, "message": self.message});
        let texts = [
            ("code", &self.code),
            ("decline_code", &self.decline_code),
            ("param", &self.param),
            ("charge", &self.charge),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                error[name] = json!(text);
            }
        }
        if let Some((name, object)) = &self.object {
            error[*name] = object.clone();
        }
        Answer { status: self.status, body: json!({"error": error}) }
    }
}

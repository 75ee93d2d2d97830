//! The books: everything that the provider knows, as a fold of the records of its ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::methods::Decline;
use super::money::{Dispute, DisputeStatus, Intent, Metadata, Refund, RefundStatus};
use super::packed::Packed;

/// One line of the ledger: a request with all that it changed and what was to be answered, or
/// something that happened by itself. It is there as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3, …
    pub number: u64,
    pub at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: String,
    /// Such as payment_intents.create
    pub operation: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of operation, path and parameters.
    pub fingerprint: String,
    /// Of the faults that it met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// What can happen to the books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Change {
    Created {
        intent: Intent,
    },
    Updated {
        intent: String,
        amount: Option<i64>,
        metadata: Metadata,
        payment_method: Option<String>,
        description: Option<String>,
        return_url: Option<String>,
    },
    /// The buyer is asked; the verdict is what the bank says if they pass.
    Challenged {
        intent: String,
        verdict: Option<Decline>,
    },
    Processing {
        intent: String,
        until_ms: i64,
        verdict: Option<Decline>,
    },
    Authorised {
        intent: String,
        charge: String,
        amount: i64,
        expires_ms: i64,
    },
    Declined {
        intent: String,
        charge: Option<String>,
        decline: Decline,
    },
    Captured {
        intent: String,
        asked: i64,
        amount: i64,
    },
    Canceled {
        intent: String,
        reason: Option<String>,
        released: i64,
    },
    Refunded {
        refund: Refund,
    },
    RefundTurned {
        refund: String,
        intent: String,
        amount: i64,
        status: RefundStatus,
    },
    Disputed {
        dispute: Dispute,
    },
    DisputeClosed {
        dispute: String,
        intent: String,
        amount: i64,
        status: DisputeStatus,
    },
    EndpointCreated {
        endpoint: Endpoint,
    },
    EndpointDeleted {
        endpoint: String,
    },
    Told {
        event: Event,
    },
    /// An event was sent to an endpoint; without a next time, that was the last one.
    Tried {
        endpoint: String,
        event: String,
        outcome: String,
        at_ms: i64,
        next_ms: Option<i64>,
    },
    ClockAdvanced {
        by_ms: i64,
    },
    /// The answer of that record was handed to the caller's connection as a whole, or was not.
    Answered {
        record: u64,
        whole: bool,
    },
}

impl Change {
    /// The intent that it is about.
    pub fn intent(&self) -> Option<&str> {
        match self {
            Self::Created { intent } => Some(&intent.id),
            Self::Refunded { refund } => Some(&refund.intent),
            Self::Disputed { dispute } => Some(&dispute.intent),
            Self::Updated { intent, .. }
            | Self::Challenged { intent, .. }
            | Self::Processing { intent, .. }
            | Self::Authorised { intent, .. }
            | Self::Declined { intent, .. }
            | Self::Captured { intent, .. }
            | Self::Canceled { intent, .. }
            | Self::RefundTurned { intent, .. }
            | Self::DisputeClosed { intent, .. } => Some(intent),
            Self::EndpointCreated { .. }
            | Self::EndpointDeleted { .. }
            | Self::Told { .. }
            | Self::Tried { .. }
            | Self::ClockAdvanced { .. }
            | Self::Answered { .. } => None,
        }
    }
}

/// Where events are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub created_ms: i64,
    pub url: String,
    pub enabled_events: Vec<String>,
    pub secret: String,
    pub metadata: Metadata,
}

impl Endpoint {
    fn wants(&self, kind: &str) -> bool {
        self.enabled_events.iter().any(|wanted| wanted == "*" || wanted == kind)
    }
}

/// Something that others are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub created_ms: i64,
    /// What it's about, as it was then.
    pub object: Packed,
    /// The request that led to it.
    pub request: Option<String>,
    pub key: Option<String>,
}

/// How far an event is on its way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    pub record: u64,
    pub attempts: u32,
    pub delivered: bool,
    /// When it is sent (again); none if it won't be.
    pub next_ms: Option<i64>,
    /// When, and with which outcome.
    pub tried: Vec<(i64, String)>,
}

/// What was answered to a request with a key.
#[derive(Debug, Clone)]
pub struct Saved {
    pub at_ms: i64,
    pub request: String,
    pub fingerprint: String,
    pub status: u16,
    pub body: Packed,
}

/// Ids sort by the time they were made, so maps have their objects in that order.
#[derive(Debug, Default)]
pub struct Book {
    pub intents: BTreeMap<String, Intent>,
    pub refunds: BTreeMap<String, Refund>,
    pub disputes: BTreeMap<String, Dispute>,
    pub events: BTreeMap<String, Event>,
    pub endpoints: BTreeMap<String, Endpoint>,
    /// By endpoint and event.
    pub deliveries: BTreeMap<(String, String), Delivery>,
    /// Of those that are to be sent (again): endpoint, when, and event.
    pub undelivered: BTreeSet<(String, i64, String)>,
    pub saved: HashMap<String, Saved>,
    /// Intents and refunds that change by themselves.
    pub due: BTreeSet<(i64, String)>,
    pub clock_offset_ms: i64,
    pub last_number: u64,
}

impl Book {
    pub fn evolve(&mut self, record: &Record) {
        self.last_number = record.number;
        for change in &record.changes {
            self.apply(change, record);
        }
        if let (Some(request), Some(answer)) = (&record.request, &record.answer)
            && let Some(key) = &request.key
        {
            let saved = Saved {
                at_ms: record.at_ms,
                request: request.id.clone(),
                fingerprint: request.fingerprint.clone(),
                status: answer.status,
                body: Packed::from(&answer.body),
            };
            self.saved.insert(key.clone(), saved);
        }
    }

    fn apply(&mut self, change: &Change, record: &Record) {
        match change {
            Change::Created { intent } => {
                self.intents.insert(intent.id.clone(), intent.clone());
            }
            Change::Refunded { refund } => {
                self.due.extend(refund.turns.map(|(at_ms, _)| (at_ms, refund.id.clone())));
                self.refunds.insert(refund.id.clone(), refund.clone());
            }
            Change::RefundTurned { refund, status, .. } => {
                if let Some(refund) = self.refunds.get_mut(refund) {
                    if let Some((at_ms, _)) = refund.turns.take() {
                        self.due.remove(&(at_ms, refund.id.clone()));
                    }
                    refund.status = *status;
                }
            }
            Change::Disputed { dispute } => {
                self.disputes.insert(dispute.id.clone(), dispute.clone());
            }
            Change::DisputeClosed { dispute, status, .. } => {
                if let Some(dispute) = self.disputes.get_mut(dispute) {
                    dispute.status = *status;
                }
            }
            Change::EndpointCreated { endpoint } => {
                self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Change::EndpointDeleted { endpoint } => {
                self.endpoints.remove(endpoint);
                self.undelivered.retain(|(of, _, _)| of != endpoint);
            }
            Change::Told { event } => self.told(event, record.number),
            Change::Tried { endpoint, event, outcome, at_ms, next_ms } => {
                self.tried((endpoint.clone(), event.clone()), outcome, *at_ms, *next_ms);
            }
            Change::ClockAdvanced { by_ms } => self.clock_offset_ms += by_ms,
            Change::Updated { .. }
            | Change::Challenged { .. }
            | Change::Processing { .. }
            | Change::Authorised { .. }
            | Change::Declined { .. }
            | Change::Captured { .. }
            | Change::Canceled { .. }
            | Change::Answered { .. } => {}
        }
        if let Some(intent) = change.intent().and_then(|id| self.intents.get_mut(id)) {
            let before = intent.turns_ms;
            intent.evolve(change, record.at_ms);
            if before != intent.turns_ms {
                self.due.extend(intent.turns_ms.map(|at_ms| (at_ms, intent.id.clone())));
                if let Some(before) = before {
                    self.due.remove(&(before, intent.id.clone()));
                }
            }
        }
    }

    fn told(&mut self, event: &Event, record: u64) {
        for endpoint in self.endpoints.values().filter(|endpoint| endpoint.wants(&event.kind)) {
            let which = (endpoint.id.clone(), event.id.clone());
            let delivery = Delivery {
                record,
                attempts: 0,
                delivered: false,
                next_ms: Some(event.created_ms),
                tried: Vec::new(),
            };
            self.undelivered.insert((endpoint.id.clone(), event.created_ms, event.id.clone()));
            self.deliveries.insert(which, delivery);
        }
        self.events.insert(event.id.clone(), event.clone());
    }

    fn tried(&mut self, which: (String, String), outcome: &str, at_ms: i64, next_ms: Option<i64>) {
        let Some(delivery) = self.deliveries.get_mut(&which) else { return };
        let (endpoint, event) = which;
        if let Some(before) = delivery.next_ms {
            self.undelivered.remove(&(endpoint.clone(), before, event.clone()));
        }
        // To an endpoint that was deleted meanwhile, nothing is sent any more.
        let next_ms = next_ms.filter(|_| self.endpoints.contains_key(&endpoint));
        self.undelivered.extend(next_ms.map(|next_ms| (endpoint, next_ms, event)));
        delivery.attempts += 1;
        delivery.delivered |= outcome.starts_with('2');
        delivery.next_ms = next_ms;
        delivery.tried.push((at_ms, outcome.to_owned()));
    }

    /// Deliveries of the events that record led to.
    pub fn deliveries_of(&self, record: u64) -> impl Iterator<Item = &Delivery> {
        let which = |endpoint: &String, record: u64| (endpoint.clone(), format!("evt_{record:010}"));
        let events = move |endpoint| which(endpoint, record)..which(endpoint, record + 1);
        self.endpoints
            .keys()
            .flat_map(move |endpoint| self.deliveries.range(events(endpoint)))
            .map(|(_, delivery)| delivery)
    }

    /// How many endpoints are to be sent this event (again).
    pub fn is_to_reach(&self, event: &str) -> usize {
        let delivery = |endpoint: &String| self.deliveries.get(&(endpoint.clone(), event.to_owned()));
        self.endpoints.keys().filter_map(delivery).filter(|delivery| delivery.next_ms.is_some()).count()
    }

    /// Forgets the answers to keys that are older than this.
    pub fn prune(&mut self, before_ms: i64) {
        self.saved.retain(|_, saved| saved.at_ms >= before_ms);
    }
}

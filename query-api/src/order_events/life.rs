//! One order's life, read from its streams in the log, up to where it is known to be whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::order::{self, Order};
use domain::payment::{self, Payment};
use domain::public::{self, Audience};
use domain::{OrderId, RecordedEvent, StreamId};
use infra::log::{EventLog, ReadError, Stored, Unavailable};

use super::live::Reach;
use super::message::{OrderEvent, Place};

/// For how long a replica of the log may be behind.
const REPLICA_ATTEMPTS: u32 = 30;
const REPLICA_PAUSE: Duration = Duration::from_millis(100);

/// Payment events after which nothing of it is on its way.
const AT_REST: [&str; 6] = [
    "payment.declined",
    "payment.voided",
    "payment.refunded",
    "payment.charged_back",
    "payment.nothing_to_undo",
    "payment.stray_undone",
];

pub(super) struct Life {
    log: Arc<dyn EventLog>,
    order: StreamId,
    payment: StreamId,
    /// Everything up to this position was read.
    read: u64,
    /// What the client has seen already, up to here.
    seen: Option<Place>,
    is_known: bool,
    is_cancelled: bool,
    payment_may_move: bool,
    /// To be shown next.
    events: VecDeque<OrderEvent>,
}

impl Life {
    pub fn new(log: Arc<dyn EventLog>, id: OrderId, seen: Option<Place>) -> Self {
        Self {
            log,
            order: StreamId::of::<Order>(id),
            payment: StreamId::of::<Payment>(id),
            read: 0,
            seen,
            is_known: false,
            is_cancelled: false,
            payment_may_move: false,
            events: VecDeque::new(),
        }
    }

    /// Whether anything ever happened to it.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whether nothing more is to happen to it. A confirmed order can still be cancelled, and an imported one
    /// returned, so only one that is cancelled is over, once its money is where it belongs. What a provider
    /// states after that, such as that a refund came back, is there for who looks again.
    pub fn is_over(&self) -> bool {
        self.is_cancelled && !self.payment_may_move
    }

    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn next(&mut self) -> Option<OrderEvent> {
        self.events.pop_front()
    }

    pub fn read(&self) -> u64 {
        self.read
    }

    /// Reads on to the position, up to which the streams are known to reach this far. What comes after it is
    /// left for later: of that, one stream may show more than the other.
    pub async fn take_in(&mut self, reach: Reach, position: u64) -> Result<(), ReadError> {
        let mut commits = self.load(&self.order, reach.order).await?;
        commits.extend(self.load(&self.payment, reach.payment).await?);
        commits.sort_by_key(|stored| stored.sequence);
        for stored in commits.iter().take_while(|stored| stored.sequence <= position) {
            self.is_known = true;
            for (index, event) in stored.commit.events.iter().enumerate() {
                self.happened(Place { position: stored.sequence, index }, event);
            }
        }
        self.read = self.read.max(position);
        Ok(())
    }

    /// A stream's commits behind what was read. Any replica may answer, and one may be a moment behind.
    async fn load(&self, stream: &StreamId, reach: u64) -> Result<Vec<Stored>, ReadError> {
        if self.read > 0 && reach <= self.read {
            return Ok(Vec::new());
        }
        for _ in 0..REPLICA_ATTEMPTS {
            let commits = self.log.load(stream, self.read).await?;
            if commits.last().map_or(self.read, |last| last.sequence) >= reach {
                return Ok(commits);
            }
            tokio::time::sleep(REPLICA_PAUSE).await;
        }
        Err(Unavailable::because(format!("{stream} does not show position {reach}")).into())
    }

    fn happened(&mut self, place: Place, event: &RecordedEvent) {
        match (event.category(), event.kind.as_str()) {
            (order::CATEGORY, "order.cancelled") => self.is_cancelled = true,
            (payment::CATEGORY, kind) if AT_REST.contains(&kind) => self.payment_may_move = false,
            // One that this build does not know may be a beginning of something.
            (payment::CATEGORY, _) => self.payment_may_move = true,
            _ => {}
        }
        if self.seen.is_some_and(|seen| place <= seen) {
            return;
        }
        if let Some(data) = public::data(event, Audience::Buyer) {
            self.events.push_back(OrderEvent::new(place, event, data));
        }
    }
}

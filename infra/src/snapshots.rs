//! Snapshots: states of aggregates with many events, so that these needn't be read again. All of
//! them may be lost at any time; the log has everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::{self, kv, stream::StorageType};
use bytes::Bytes;
use domain::StreamId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::fail_points;
use crate::log::Unavailable;

/// The key-value bucket.
const BUCKET: &str = "SNAPSHOTS";

/// Bytes in one value of the bucket: the server's messages have a limit of their own.
const PART_BYTES: usize = 512 * 1024;

/// Bytes of the number that each part of a value begins with.
const SEAL_BYTES: usize = 16;

/// Where snapshots are kept, one for each stream.
pub trait Snapshots: Send + Sync + 'static {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>>;

    /// Keeps it, in place of the one before.
    fn save<'a>(&'a self, stream: &'a StreamId, snapshot: Bytes) -> BoxFuture<'a, Result<(), Unavailable>>;
}

/// Snapshots in a key-value bucket of NATS.
#[derive(Debug, Clone)]
pub struct JetStreamSnapshots {
    bucket: kv::Store,
}

impl JetStreamSnapshots {
    /// Opens the bucket, and makes it where there is none yet.
    ///
    /// # Errors
    /// JetStream does not answer, or does not accept it.
    pub async fn open(context: &jetstream::Context, replicas: usize) -> Result<Self, Unavailable> {
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            description: "States of aggregates with many events; may be lost".to_owned(),
            history: 1,
            storage: StorageType::File,
            num_replicas: replicas,
            ..Default::default()
        };
        let bucket = context.create_or_update_key_value(config).await.map_err(Unavailable::because)?;
        Ok(Self { bucket })
    }
}

/// The stream's name in the alphabet of keys. A SKU has no `=`.
fn key(stream: &StreamId, part: usize) -> String {
    format!("{}/{}/{part}", stream.category(), stream.id().replace('.', "="))
}

impl Snapshots for JetStreamSnapshots {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        async move {
            let (mut all, mut seal) = (Vec::new(), None);
            for part in 0.. {
                let value = self.bucket.get(key(stream, part)).await.map_err(Unavailable::because)?;
                let Some((this_seal, body)) =
                    value.as_deref().and_then(|value| value.split_at_checked(SEAL_BYTES))
                else {
                    return Ok(None);
                };
                // Another one is being written over this one.
                if *seal.get_or_insert(this_seal.to_vec()) != this_seal {
                    return Ok(None);
                }
                all.extend_from_slice(body);
                if body.len() < PART_BYTES {
                    break;
                }
            }
            Ok(Some(all.into()))
        }
        .boxed()
    }

    fn save<'a>(&'a self, stream: &'a StreamId, snapshot: Bytes) -> BoxFuture<'a, Result<(), Unavailable>> {
        async move {
            let seal = *uuid::Uuid::now_v7().as_bytes();
            // The last part is the one that is not full, even if it's empty.
            for part in 0..=snapshot.len() / PART_BYTES {
                let body = &snapshot[part * PART_BYTES..snapshot.len().min((part + 1) * PART_BYTES)];
                fail_points::may_die(fail_points::SNAPSHOT_SAVED);
                let value = [&seal[..], body].concat();
                self.bucket.put(key(stream, part), value.into()).await.map_err(Unavailable::because)?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Snapshots in memory, for tests and simulations.
#[derive(Debug, Clone, Default)]
pub struct MemorySnapshots {
    snapshots: Arc<Mutex<HashMap<StreamId, Bytes>>>,
}

impl Snapshots for MemorySnapshots {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Bytes>, Unavailable>> {
        let snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(Ok(snapshots.get(stream).cloned())).boxed()
    }

    fn save<'a>(&'a self, stream: &'a StreamId, snapshot: Bytes) -> BoxFuture<'a, Result<(), Unavailable>> {
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.insert(stream.clone(), snapshot);
        std::future::ready(Ok(())).boxed()
    }
}

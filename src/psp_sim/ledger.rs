//! The ledger's file: a record a line, on disk before anybody is answered.
//!
//! Whoever waits at the same time shares one fsync. A last line without its end is what a kill left of
//! a write that nobody was answered for; it is cut at the next start. Anything else that is no record
//! is damage, and the simulator does not start on it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::book::Record;

const NAME: &str = "ledger.jsonl";
const FORM: &str = "cartulary psp-sim 1";

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    form: String,
    /// Of this ledger alone, so that ids of two simulators never meet.
    salt: String,
}

/// What a file holds.
#[derive(Debug)]
pub struct Content {
    pub salt: String,
    pub records: Vec<Record>,
    /// Bytes up to the end of the last whole line.
    whole: u64,
    pub torn: bool,
}

/// How far the file is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OnDisk {
    UpTo(u64),
    Failed(String),
}

/// The end of the ledger, where records are appended.
#[derive(Debug)]
pub struct Ledger {
    queue: Arc<Queue>,
    on_disk: watch::Receiver<OnDisk>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<u8>,
    last: u64,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(NAME)
}

/// Reads the ledger of a simulator that may be running meanwhile.
///
/// # Errors
/// There is none, or it is damaged.
pub fn read(data_dir: &Path) -> anyhow::Result<Content> {
    let path = path(data_dir);
    let bytes = fs::read(&path).with_context(|| format!("can't read a ledger at {}", path.display()))?;
    parse(&bytes).with_context(|| format!("of {}", path.display()))
}

fn parse(bytes: &[u8]) -> anyhow::Result<Content> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let mut lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
    let head: Head = match lines.next() {
        Some(line) => serde_json::from_slice(line).context("line 1 is not the head of a ledger")?,
        None => bail!("the ledger has no head"),
    };
    ensure!(head.form == FORM, "the ledger has another form: {:?}", head.form);
    let mut records = Vec::new();
    for (line, number) in lines.zip(1..) {
        let record: Record = serde_json::from_slice(line)
            .with_context(|| format!("line {} is damaged, it is not a record", number + 1))?;
        ensure!(record.number == number, "line {} has record {}", number + 1, record.number);
        records.push(record);
    }
    Ok(Content { salt: head.salt, records, whole: whole as u64, torn: whole < bytes.len() })
}

impl Ledger {
    /// Opens the ledger in this folder, and makes both where there are none yet.
    ///
    /// # Errors
    /// It is damaged, or open elsewhere; or the folder can't be written to.
    pub fn open(data_dir: &Path) -> anyhow::Result<(Self, Content)> {
        fs::create_dir_all(data_dir).with_context(|| format!("can't make {}", data_dir.display()))?;
        let path = path(data_dir);
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o600);
        let mut file = options.open(&path).with_context(|| format!("can't open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another simulator has {}", path.display()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {}", path.display()));
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A kill may have come before the head was there as a whole.
        if !bytes.contains(&b'\n') {
            bytes = begin(&mut file, data_dir)?;
        }
        let content = parse(&bytes).with_context(|| format!("of {}", path.display()))?;
        if content.torn {
            let cut = bytes.len() as u64 - content.whole;
            tracing::warn!(bytes = cut, "the ledger ends in the middle of a line, which is cut");
            file.set_len(content.whole)?;
            file.sync_all()?;
        }
        let last = content.records.len() as u64;
        let (told, on_disk) = watch::channel(OnDisk::UpTo(last));
        let queue = Arc::new(Queue::default());
        let waiting = queue.clone();
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write(&mut file, &waiting, &told))?;
        Ok((Self { queue, on_disk }, content))
    }

    /// Hands a record over; it is on disk when [`Ledger::is_durable`] says so. Records come in order.
    pub fn append(&self, record: &Record) {
        let mut line = serde_json::to_vec(record).unwrap_or_else(|_| unreachable!("records are JSON"));
        line.push(b'\n');
        let mut waiting = self.queue.lock();
        waiting.lines.extend(line);
        waiting.last = record.number;
        drop(waiting);
        self.queue.wake.notify_one();
    }

    /// Waits until the record of this number is on disk.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn is_durable(&self, number: u64) -> anyhow::Result<()> {
        let mut on_disk = self.on_disk.clone();
        let reached = on_disk.wait_for(|on_disk| match on_disk {
            OnDisk::UpTo(last) => *last >= number,
            OnDisk::Failed(_) => true,
        });
        match &*reached.await.context("the ledger is closed")? {
            OnDisk::UpTo(_) => Ok(()),
            OnDisk::Failed(why) => bail!("the ledger can't be written: {why}"),
        }
    }

    /// Waits until it can't be written any more; gives the reason.
    pub async fn has_failed(&self) -> String {
        let mut on_disk = self.on_disk.clone();
        match on_disk.wait_for(|on_disk| matches!(on_disk, OnDisk::Failed(_))).await.as_deref() {
            Ok(OnDisk::Failed(why)) => why.clone(),
            _ => "it is closed".to_owned(),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_one();
    }
}

/// Writes the head of a new ledger.
fn begin(file: &mut File, data_dir: &Path) -> anyhow::Result<Vec<u8>> {
    file.set_len(0)?;
    let head = Head { form: FORM.to_owned(), salt: uuid::Uuid::now_v7().simple().to_string() };
    let mut line = serde_json::to_vec(&head)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_all()?;
    File::open(data_dir)?.sync_all()?;
    Ok(line)
}

/// Writes what waits, all of it with one fsync, until nobody appends any more.
fn write(file: &mut File, queue: &Queue, told: &watch::Sender<OnDisk>) {
    loop {
        let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.closed;
        let waiting = queue.wake.wait_while(queue.lock(), idle);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<u8> = std::mem::take(&mut waiting.lines).into();
        let last = waiting.last;
        drop(waiting);
        if lines.is_empty() {
            return;
        }
        if let Err(error) = file.write_all(&lines).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the ledger can't be written");
            told.send_replace(OnDisk::Failed(error.to_string()));
            return;
        }
        told.send_replace(OnDisk::UpTo(last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psp_sim::book::Change;

    fn record(number: u64) -> Record {
        let changes = vec![Change::ClockAdvanced { by_ms: 1 }];
        Record { number, at_ms: 5, request: None, changes, answer: None }
    }

    #[tokio::test]
    async fn what_is_durable_is_read_again_and_a_torn_end_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, content) = Ledger::open(folder.path()).unwrap();
        assert!(content.records.is_empty());
        for number in 1..=3 {
            ledger.append(&record(number));
        }
        ledger.is_durable(3).await.unwrap();
        assert!(Ledger::open(folder.path()).is_err(), "one at a time");
        drop(ledger);
        let reopen = || loop {
            // The writing thread lets go of the file a moment later.
            if let Ok(opened) = Ledger::open(folder.path()) {
                break opened;
            }
            std::thread::yield_now();
        };
        let (again, content) = reopen();
        assert_eq!(content.records, [record(1), record(2), record(3)]);
        drop(again);
        let mut file = OpenOptions::new().append(true).open(path(folder.path())).unwrap();
        file.write_all(br#"{"number":4,"at_"#).unwrap();
        assert!(read(folder.path()).unwrap().torn, "who only reads cuts nothing");
        let (ledger, content) = reopen();
        assert!(content.torn && content.records.len() == 3);
        ledger.append(&record(4));
        ledger.is_durable(4).await.unwrap();
        let content = read(folder.path()).unwrap();
        assert!(!content.torn && content.records.len() == 4);
    }

    #[test]
    fn damage_is_told_with_its_line() {
        let head = format!("{{\"form\":\"{FORM}\",\"salt\":\"s\"}}\n");
        let of = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(of("").contains("no head"));
        assert!(of("{}\n").contains("line 1"));
        assert!(of(&format!("{head}rubbish\n")).contains("line 2 is damaged"));
        assert!(of(&format!("{head}{{\"number\":2,\"at_ms\":1}}\n")).contains("line 2 has record 2"));
        assert!(of("{\"form\":\"other\",\"salt\":\"s\"}\n").contains("another form"));
    }
}
